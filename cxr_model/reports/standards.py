"""Checklists for studies like this one, each item decided from the run: CLAIM, TRIPOD+AI, PROBAST.

The items are data, in ``checklists/*.toml``: the number is the checklist's own, the wording is
ours, and places in the run are named where the evidence would be.
"""

import tomllib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cxr_model.run_folder import RunFolder, read_json

CHECKLISTS = ("claim-2024", "tripod-ai", "probast")
STATES = ("met", "in part", "not met")


@dataclass(frozen=True, kw_only=True)
class Item:
    """What a checklist asks for, and what this run has to show."""

    number: str
    asks: str
    state: str
    """One of `STATES`."""
    evidence: list[str]
    """Sections of the report as ``#id`` and files of the run; empty only where not met."""
    lacks: str
    """What is missing or cannot be known; empty where met."""


@dataclass(frozen=True, kw_only=True)
class Checklist:
    title: str
    source: str
    items: list[Item]

    @property
    def counts(self) -> dict[str, int]:
        """How many items are in each of `STATES`."""
        found = Counter(item.state for item in self.items)
        return {state: found[state] for state in STATES}


def decide_checklists(run: RunFolder, sections: Collection[str]) -> list[Checklist]:
    """Every checklist as far as the run's files and the report's ``sections`` (ids) bear it out.

    An item is met where all its places are there and nothing is known to lack, in part where
    something is there, and not met otherwise.
    """
    checklists = []
    for name in CHECKLISTS:
        text = (files("cxr_model.reports") / "checklists" / f"{name}.toml").read_text("utf-8")
        content = tomllib.loads(text)
        items = [_decide(item, run, sections) for item in content["items"]]
        checklists.append(Checklist(title=content["title"], source=content["source"], items=items))
    return checklists


def _decide(item: dict[str, Any], run: RunFolder, sections: Collection[str]) -> Item:
    places = item.get("evidence", [])
    there = [place for place in places if _is_there(place, run, sections)]
    missing = [place for place in places if place not in there]
    reasons = [item["lacks"]] if "lacks" in item else []
    if missing:
        names = ", ".join(place.removeprefix("#") for place in missing)
        reasons.append(f"not in this run: {names}")
    state = "not met" if not there else "in part" if reasons else "met"
    return Item(
        number=item["number"],
        asks=item["asks"],
        state=state,
        evidence=there,
        lacks="; ".join(reasons),
    )


def _is_there(place: str, run: RunFolder, sections: Collection[str]) -> bool:
    file, _, key = place.partition("#")
    if not file:
        return key in sections
    path = run.root / file
    return path.is_file() and (not key or bool(read_json(path).get(key)))
