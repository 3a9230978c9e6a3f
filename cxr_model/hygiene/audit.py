"""The look at a set of films before they are dealt out: ``evidence/hygiene.json``.

It needs the index with its thumbnails, and decodes nothing anew but films that may be equal
pixel by pixel.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_model.config import RunConfig
from cxr_model.hygiene.copies import Copies, find_copies, label_conflicts
from cxr_model.hygiene.fingerprint import film_properties, fingerprint, told_apart_by
from cxr_model.hygiene.near_duplicates import MAX_DISTANCE, METHOD, PLANTED
from cxr_model.hygiene.resemblance import LEAST_LIKENESS, find_unlike
from cxr_model.hygiene.thumbnails import Thumbnails, in_parts, is_blank, read_thumbnails
from cxr_model.index import patient_summary, read_index, unreadable_films
from cxr_model.run_folder import RunFolder, write_json, write_table
from cxr_model.splits import group_films

FINDING_COLUMNS = ("path", "finding", "detail")
FINDINGS = (
    "unreadable",
    "exact duplicate",
    "near duplicate",
    "label conflict",
    "blank",
    "inverted",
    "not a radiograph",
    "odd size",
    "shared patient",
)
MAX_CHROMA = 15.0
"""Mean distance of the channels from which a film is called coloured; tinted films have 11."""
PAGE_GREY = 240
"""Median grey level from which a film is taken for a page; the whitest radiograph has 233."""
_LEAST_RATIO = {"side": 2.0, "aspect": 1.5}
"""Nearer than this to its class's median no film is odd, however alike the others are."""
_ROBUST_Z = 3.5  # Iglewicz & Hoaglin 1993
_MAD_TO_STD = 1.4826


@dataclass(frozen=True)
class _Films:
    """The readable films and what was found in them, row by row."""

    table: pd.DataFrame
    thumbnails_NHW: Thumbnails
    properties: pd.DataFrame

    def paths(self, mask: NDArray[np.bool_]) -> list[str]:
        return self.table.loc[mask, "path"].tolist()


def audit_films(run: RunFolder, config: RunConfig, root: Path) -> dict[str, Any]:
    """Write ``evidence/hygiene.json`` and ``data/hygiene.csv`` of the run's index; returns it.

    Raises ``DataError`` where the index or its thumbnails are missing, or a film has changed.
    """
    index = read_index(run.index)
    pictures_NHW = read_thumbnails(run.thumbnails, index)
    readable = (index["error"] == "").to_numpy()
    table = index[readable].reset_index(drop=True)
    table["group"] = group_films(table)
    pictures_NHW = pictures_NHW[readable]
    films = _Films(table, pictures_NHW, film_properties(table, pictures_NHW))
    copies = find_copies(table, pictures_NHW, root)
    unreadable = unreadable_films(index)
    record = {
        "num_films": len(index),
        "unreadable": unreadable,
        **_copies_record(copies, searched=config.hygiene.near_duplicates),
        "label_conflicts": label_conflicts(table, copies),
        **_look_at_pictures(films),
        "odd_sizes": _odd_sizes(films),
        "patients": _patients(index),
        "groups": {
            "count": int(table["group"].nunique()),
            "largest": int(table["group"].value_counts().iloc[0]),
        },
        "fingerprint": fingerprint(table["label"].tolist(), films.properties, pictures_NHW),
        "told_apart_by": told_apart_by(
            table["label"].tolist(),
            table["group"].tolist(),
            films.properties,
            draws=config.evaluate.bootstrap_draws,
            seed=config.split.seed,
        ),
    }
    findings = pd.DataFrame(_findings(record), columns=list(FINDING_COLUMNS))
    write_table(run.findings, findings)
    # A copy may stand in two conflicts, of bytes and of near ones: it is one film all the same.
    num_found = findings.groupby("finding")["path"].nunique()
    record["counts"] = {name: int(num_found.get(name, 0)) for name in FINDINGS}
    write_json(run.hygiene, record)
    return record


def _copies_record(copies: Copies, *, searched: bool) -> dict[str, Any]:
    return {
        "exact_duplicates": {
            "by_bytes": sum(map(len, copies.by_bytes)),
            "by_pixels": sum(map(len, copies.by_pixels)),
            "groups": copies.by_bytes + copies.by_pixels,
        },
        "near_duplicates": {
            "searched": searched,  # where it is false, no number of films says anything
            "films": copies.num_near,
            "groups": [{"paths": paths, "distance": gap} for paths, gap in copies.near],
            "method": METHOD,
            "threshold": MAX_DISTANCE,
            "planted": PLANTED,
        },
    }


def _look_at_pictures(films: _Films) -> dict[str, Any]:
    blank = is_blank(films.thumbnails_NHW)
    shown = np.flatnonzero(~blank)
    found = find_unlike(films.thumbnails_NHW[shown])
    inverted, turned, unlike = (np.zeros(len(blank), dtype=bool) for _ in range(3))
    inverted[shown], turned[shown], unlike[shown] = found.inverted, found.turned, found.unlike
    colored = (films.table["chroma"] > MAX_CHROMA).to_numpy()
    grey_N = in_parts(lambda part: np.median(part, axis=(1, 2)), films.thumbnails_NHW)
    page = (grey_N >= PAGE_GREY) & ~blank & ~colored
    rest = ~colored & ~page
    reasons = [
        (colored, "coloured"),
        (page, "white like a page"),
        (turned & rest, "resembles the others when turned"),
        (unlike & rest, f"unlike the others (correlation below {LEAST_LIKENESS})"),
    ]
    return {
        "blank": films.paths(blank),
        "inverted": films.paths(inverted & rest),
        "not_radiographs": [
            {"path": path, "why": why} for mask, why in reasons for path in films.paths(mask)
        ],
        "common_picture": round(found.median, 4),
    }


def _odd_sizes(films: _Films) -> list[dict[str, Any]]:
    """Films far from their class's median in size or aspect, by both measures of far."""
    area = films.properties["width"] * films.properties["height"]
    measures: dict[str, pd.Series] = {
        "side": area**0.5,
        "aspect": films.properties["aspect"],
    }
    odd = np.zeros(len(area), dtype=bool)
    for name, values in measures.items():
        logs = pd.Series(np.log(values.to_numpy(np.float64)))
        by_class = logs.groupby(films.table["label"])
        distance = (logs - by_class.transform("median")).abs()
        mad = _MAD_TO_STD * distance.groupby(films.table["label"]).transform("median")
        odd |= (distance > np.maximum(_ROBUST_Z * mad, np.log(_LEAST_RATIO[name]))).to_numpy()
    rows = films.table.loc[odd, ["path", "width", "height"]]
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _patients(index: pd.DataFrame) -> dict[str, Any]:
    """Counts, and the films of each patient with several; those of several classes first."""
    films = index[(index["error"] == "") & (index["patient"] != "")]
    shared: list[dict[str, Any]] = [
        {"patient": patient, "labels": sorted(set(own["label"])), "paths": own["path"].tolist()}
        for patient, own in films.groupby("patient")
        if len(own) > 1
    ]
    shared.sort(key=lambda each: (-len(each["labels"]), each["patient"]))
    return patient_summary(index) | {
        "films_sharing": sum(len(each["paths"]) for each in shared),
        "shared": shared,
    }


def _findings(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(path, finding, detail) of everything in the record's lists."""
    exact, near = record["exact_duplicates"], record["near_duplicates"]
    rows = [(film["path"], "unreadable", film["error"]) for film in record["unreadable"]]
    rows += [
        (path, "exact duplicate", f"of {_other(path, paths)}")
        for paths in exact["groups"]
        for path in paths
    ]
    rows += [
        (path, "near duplicate", f"of {_other(path, group['paths'])}")
        for group in near["groups"]
        for path in group["paths"]
    ]
    rows += [
        (path, "label conflict", f"{conflict['kind']}: {', '.join(conflict['labels'])}")
        for conflict in record["label_conflicts"]
        for path in conflict["paths"]
    ]
    rows += [(path, name, "") for name in ("blank", "inverted") for path in record[name]]
    rows += [(film["path"], "not a radiograph", film["why"]) for film in record["not_radiographs"]]
    rows += [
        (film["path"], "odd size", f"{film['width']} x {film['height']}")
        for film in record["odd_sizes"]
    ]
    rows += [
        (path, "shared patient", f"{each['patient']}: {', '.join(each['labels'])}")
        for each in record["patients"]["shared"]
        for path in each["paths"]
    ]
    return rows


def _other(path: str, paths: list[str]) -> str:
    return paths[1] if path == paths[0] else paths[0]
