"""The verdicts that can keep a run out of the registry: its gates.

A gate is decided from the run's files alone, so the report, the flow and the registry come to
the same verdict, whenever and wherever they ask.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_model.config import RunConfig
from cxr_model.errors import DataError, GateError
from cxr_model.explanations.verdicts import LEAST_GROUPS
from cxr_model.index import read_index
from cxr_model.intervals import format_estimate
from cxr_model.run_folder import RunFolder, read_json
from cxr_model.run_verdicts import SHOWN_METHOD
from cxr_model.splits import check_disjoint, read_splits

REMEDIES = {
    "leakage": "assign the splits anew with 'cxr train'",
    "shortcut": "look at the report's shortcut section and mend the data",
    "calibration": "give the run more validation films, or other training settings",
    "explanation": "raise training.epochs or choose other explain.methods",
}


@dataclass(frozen=True)
class Gate:
    """A condition of a run, and what was found."""

    name: str
    passed: bool | None
    """None: undecided, as its part of the run was switched off, or had too few films to tell.
    Neither red nor green."""
    found: str
    fails: bool = True
    """Red ends the flow as failed; otherwise it warns, and leaves promotion to the operator."""

    @property
    def is_red(self) -> bool:
        return self.passed is False

    @property
    def state(self) -> str:
        """``passed``, ``failed`` or ``undecided``: words, as colour alone tells not everyone."""
        return {True: "passed", False: "failed", None: "undecided"}[self.passed]


def check_gates(run: RunFolder, config: RunConfig) -> list[Gate]:
    """The gates leakage, shortcut, calibration and explanation of a run's folder, in this order.

    ``fails`` of each says whether ``config.gates.fail_on`` names it. The explanation gate asks
    for the method that is shown beside predictions, `SHOWN_METHOD`; where it was not put to the
    test, for one that passed its checks.
    """
    found = {
        "leakage": _leakage(run, near_searched=config.hygiene.near_duplicates),
        "shortcut": _shortcut(run.shortcuts),
        "calibration": _calibration(run.reliability),
        "explanation": _explanation(run.explanations),
    }
    fail_on = set(config.gates.fail_on)
    return [Gate(name, passed, words, name in fail_on) for name, (passed, words) in found.items()]


def require_gates(gates: Iterable[Gate]) -> None:
    """Raise GateError where a gate that ``fails`` is red."""
    red = [gate for gate in gates if gate.fails and gate.is_red]
    if red:
        found = "; ".join(f"{gate.name} ({gate.found})" for gate in red)
        remedies = ", or ".join(REMEDIES[gate.name] for gate in red)
        kept = ", ".join(gate.name for gate in red)
        raise GateError(
            f"not for the registry, the gate is red: {found}; {remedies}, or take {kept} out of "
            "gates.fail_on"
        )


def gate_records(gates: Iterable[Gate]) -> list[dict[str, Any]]:
    """The ``gates`` of ``metrics.json``: name, passed (true, false or null), found, fails."""
    return [asdict(gate) for gate in gates]


Finding = tuple[bool | None, str]


def _leakage(run: RunFolder, *, near_searched: bool) -> Finding:
    splits, index = read_splits(run.splits), read_index(run.index)
    try:
        check_disjoint(splits)
    except DataError as error:
        return False, str(error).partition(";")[0]
    for column, relative in (
        ("patient", "of the same patient"),
        ("series", "of the same series"),
        ("copies", "its copy"),
    ):
        if torn := _torn(splits, index, column):
            return False, f"{torn[0]} and {torn[1]}, {relative}, stand in two splits"
    groups = f"{splits['group'].nunique():,} groups, none in two splits"
    if not near_searched:
        near = "; near duplicates were not looked for"
        return None, groups + near + _unknown_patients(splits, index)
    return True, groups + ", near duplicates included" + _unknown_patients(splits, index)


def _unknown_patients(splits: pd.DataFrame, index: pd.DataFrame) -> str:
    """What the gate could not see: a patient whom no film names may stand in two splits."""
    dealt = splits[["path", "label"]].merge(index[["path", "patient"]], on="path")
    is_unknown = dealt["patient"] == ""
    if not is_unknown.any():
        return ""
    if is_unknown.all():
        return "; no film names a patient, so none could be seen in two splits"
    whole = is_unknown.groupby(dealt["label"]).all()
    classes = ", ".join(whole.index[whole])
    all_of = f", among them all of {classes}" if classes else ""
    return f"; {is_unknown.sum():,} of {len(dealt):,} films name no patient{all_of}"


def _torn(splits: pd.DataFrame, index: pd.DataFrame, column: str) -> list[str]:
    """Paths of two films that one value of ``column`` names, in different splits; or none.

    Asked of the index and not of the groups, which a fault in grouping may have left too small.
    """
    named = index.loc[index[column] != "", ["path", column]].rename(columns={column: "named"})
    dealt = splits[["path", "split"]].merge(named, on="path").drop_duplicates(["named", "split"])
    torn = dealt[dealt.duplicated("named", keep=False)].sort_values(["named", "path"])
    return torn["path"].head(2).tolist()


def _shortcut(evidence: Path) -> Finding:
    if not evidence.is_file():
        return None, "no audit for shortcuts was made (shortcuts.audit is off)"
    record = read_json(evidence)
    if not record["alarm"]:
        return (None if record["doubt"] else True), record["verdict"].rstrip(".")
    first, *others = record["alarms"]
    more = f", and {len(others)} more" if others else ""
    above = f"accuracy above what no-lung evidence gives: {format_estimate(record['headline'])}"
    return False, f"{first}{more} ({above})"


def _calibration(evidence: Path) -> Finding:
    if not evidence.is_file():
        return None, "calibration was not measured"
    calibration = read_json(evidence)["calibration"]
    return calibration["passed"], calibration["verdict"]


def _explanation(evidence: Path) -> Finding:
    if not evidence.is_file():
        return None, "no method of explanation was tested (explain.checks is off)"
    record = read_json(evidence)
    tested = record["methods"]
    methods = tested.values()
    failed = ", ".join(method["title"] for method in methods if not method["passed"])
    passed = ", ".join(method["title"] for method in methods if method["passed"])
    words = [f"passed: {passed}"] * bool(passed) + [f"failed: {failed}"] * bool(failed)
    is_green = bool(tested[SHOWN_METHOD]["passed"] if SHOWN_METHOD in tested else passed)
    if is_green and record["num_groups"] < LEAST_GROUPS:
        words.append(f"films of {record['num_groups']} groups are too few to tell")
        return None, "; ".join(words)
    return is_green, "; ".join(words)
