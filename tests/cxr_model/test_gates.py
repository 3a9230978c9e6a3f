"""Gates: red for what speaks against a run, undecided for what nobody looked at."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr_model.config import RunConfig
from cxr_model.errors import GateError
from cxr_model.evidence_config import GateConfig, HygieneConfig
from cxr_model.gates import REMEDIES, Gate, check_gates, gate_records, require_gates
from cxr_model.index import COLUMNS, read_index, write_index
from cxr_model.run_folder import RunFolder, read_json, write_json
from cxr_model.splits import write_splits

NAMES = ["leakage", "shortcut", "calibration", "explanation"]
NUMBERS = ("width", "height", "jpeg_quality", "chroma")
SHARE = {"value": 0.1, "ci_low": 0.05, "ci_high": 0.2, "n": 50}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Splits of three films that have nothing in common, and no evidence."""
    run = RunFolder(tmp_path)
    films = [("a.png", "train"), ("b.png", "validation"), ("c.png", "holdout")]
    rows = [
        {"path": path, "sha256": path * 8, "label": "normal", "group": path, "split": split}
        for path, split in films
    ]
    write_splits(pd.DataFrame(rows), run.splits)
    write_films(run, "", "")
    return run


def write_films(run: RunFolder, *copies: str) -> None:
    """The index of the three films and one that was not dealt; ``copies`` of a, c and it."""
    a, c, other = [*copies, ""][:3]
    names = zip("abcd", (a, "", c, other), strict=True)
    nothing = dict.fromkeys(COLUMNS, "") | dict.fromkeys(NUMBERS, 0)
    rows = [
        nothing | {"path": f"{name}.png", "phash": 16 * "0", "copies": of} for name, of in names
    ]
    write_index(pd.DataFrame(rows), run.index)


def write_evidence(run: RunFolder, *, is_good: bool) -> None:
    write_films(run, *(2 * [""] if is_good else 2 * ["one picture"]))
    alarms = [] if is_good else ["the border tells the classes apart", "so do sizes"]
    write_json(
        run.shortcuts,
        {
            "alarm": not is_good,
            "alarms": alarms,
            "doubt": "",
            "verdict": "nothing found",
            "headline": SHARE,
        },
    )
    calibration = {"passed": is_good, "verdict": "as measured"}
    write_json(run.reliability, {"calibration": calibration})
    methods = {"grad-cam": {"title": "Grad-CAM", "passed": is_good}}
    write_json(run.explanations, {"num_groups": 24, "methods": methods})


def states(run: RunFolder, **settings: Any) -> dict[str, bool | None]:
    return {gate.name: gate.passed for gate in check_gates(run, RunConfig(**settings))}


def test_what_nobody_looked_at_is_neither_red_nor_green(run: RunFolder) -> None:
    assert states(run) == {"leakage": True, **dict.fromkeys(NAMES[1:])}
    gates = check_gates(run, RunConfig(gates=GateConfig(fail_on=tuple(NAMES))))  # type: ignore[arg-type]
    assert [gate.state for gate in gates] == ["passed"] + 3 * ["undecided"]
    require_gates(gates)


def test_good_evidence_makes_every_gate_green_and_bad_evidence_red(run: RunFolder) -> None:
    write_evidence(run, is_good=True)
    assert states(run) == dict.fromkeys(NAMES, True)
    write_evidence(run, is_good=False)
    assert states(run) == dict.fromkeys(NAMES, False)
    leakage, shortcut, calibration, explanation = check_gates(run, RunConfig())
    assert leakage.found == "a.png and c.png, its copy, stand in two splits"
    assert shortcut.found == (
        "the border tells the classes apart, and 1 more (accuracy above what no-lung evidence "
        "gives: 0.100 (0.05–0.20))"
    )
    assert calibration.found == "as measured"
    assert explanation.found == "failed: Grad-CAM"


@pytest.mark.parametrize("column", ["group", "sha256"])
def test_a_group_or_a_copy_in_two_splits_is_leakage(run: RunFolder, column: str) -> None:
    splits = pd.read_csv(run.splits).assign(**{column: "the same"})
    write_splits(splits, run.splits)
    (leakage, *_) = check_gates(run, RunConfig())
    assert leakage.is_red
    assert leakage.found == f"{column} the same stands in 3 splits (1 such in all)"


@pytest.mark.parametrize("column", ["patient", "series"])
def test_a_patient_or_series_torn_by_groups_too_small_is_leakage(
    run: RunFolder, column: str
) -> None:
    write_index(read_index(run.index).assign(**{column: "the same"}), run.index)
    (leakage, *_) = check_gates(run, RunConfig())
    assert leakage.is_red
    assert leakage.found == f"a.png and b.png, of the same {column}, stand in two splits"


def test_a_near_duplicate_that_was_not_dealt_out_is_no_leakage(run: RunFolder) -> None:
    write_films(run, "one picture", "", "one picture")
    assert states(run)["leakage"]


def test_the_leakage_gate_says_whether_near_duplicates_were_looked_for(run: RunFolder) -> None:
    (looked, *_) = check_gates(run, RunConfig())
    unseen = "no film names a patient, so none could be seen in two splits"
    assert looked.found == f"3 groups, none in two splits, near duplicates included; {unseen}"
    off = RunConfig(hygiene=HygieneConfig(near_duplicates=False))
    (unknown, *_) = check_gates(run, off)
    assert unknown.passed is None
    near = "near duplicates were not looked for"
    assert unknown.found == f"3 groups, none in two splits; {near}; {unseen}"
    write_films(run, "equal pixels", "equal pixels")
    assert check_gates(run, off)[0].is_red


def test_the_leakage_gate_says_how_many_films_name_no_patient(run: RunFolder) -> None:
    def found(patients: list[str], labels: list[str]) -> str:
        write_index(read_index(run.index).assign(patient=[*patients, ""]), run.index)
        write_splits(pd.read_csv(run.splits).assign(label=labels), run.splits)
        (leakage, *_) = check_gates(run, RunConfig())
        assert leakage.passed
        return leakage.found.removeprefix(
            "3 groups, none in two splits, near duplicates included"
        ).removeprefix("; ")

    labels = ["normal", "covid", "covid"]
    assert found(["a", "b", "c"], labels) == ""
    assert found(["a", "", "c"], labels) == "1 of 3 films name no patient"
    assert found(["a", "", ""], labels) == "2 of 3 films name no patient, among them all of covid"
    unseen = "no film names a patient, so none could be seen in two splits"
    assert found(["", "", ""], labels) == unseen


def test_no_torn_copy_escapes_the_leakage_gate_by_the_length_of_a_list(run: RunFolder) -> None:
    names = [f"{n:03}.png" for n in range(600)]
    splits = pd.DataFrame({"path": names, "sha256": names, "label": "normal", "group": names})
    write_splits(splits.assign(split=599 * ["train"] + ["holdout"]), run.splits)
    copies = pd.DataFrame({"path": names, "copies": [f"{n // 2}" for n in range(600)]})
    others = read_index(run.index).drop(columns=["path", "copies"]).head(1)
    write_index(copies.merge(others, how="cross")[list(COLUMNS)], run.index)
    (leakage, *_) = check_gates(run, RunConfig())
    assert leakage.found == "598.png and 599.png, its copy, stand in two splits"


def test_the_method_that_users_see_decides_whether_a_run_explains(run: RunFolder) -> None:
    methods = {
        "occlusion": {"title": "Occlusion", "passed": True},
        "grad-cam": {"title": "Grad-CAM", "passed": False},
    }
    write_json(run.explanations, {"num_groups": 24, "methods": methods})
    (*_, explanation) = check_gates(run, RunConfig())
    assert explanation.is_red
    assert explanation.found == "passed: Occlusion; failed: Grad-CAM"
    del methods["grad-cam"]
    write_json(run.explanations, {"num_groups": 24, "methods": methods})
    assert states(run)["explanation"]


def test_maps_of_few_patients_pass_by_luck_and_leave_the_gate_undecided(run: RunFolder) -> None:
    for passed, state in ((True, None), (False, False)):
        methods = {"grad-cam": {"title": "Grad-CAM", "passed": passed}}
        write_json(run.explanations, {"num_groups": 4, "methods": methods})
        assert states(run)["explanation"] is state


def test_silence_of_the_shortcut_rules_is_no_pass_where_it_says_nothing(run: RunFolder) -> None:
    write_evidence(run, is_good=True)
    assert states(run)["shortcut"]
    write_json(run.shortcuts, read_json(run.shortcuts) | {"doubt": "there are too few films"})
    assert states(run)["shortcut"] is None


def test_only_gates_that_the_settings_name_end_a_run(run: RunFolder) -> None:
    write_evidence(run, is_good=False)
    with pytest.raises(GateError, match="leakage") as raised:
        require_gates(check_gates(run, RunConfig()))
    assert "shortcut" not in str(raised.value)
    require_gates(check_gates(run, RunConfig(gates=GateConfig(fail_on=()))))


def test_the_message_names_gate_finding_and_remedy_in_one_line() -> None:
    gates = [Gate(name, False, "bad") for name in NAMES]
    message = (
        "not for the registry, the gate is red: shortcut (bad); look at the report's shortcut "
        "section and mend the data, or take shortcut out of gates.fail_on"
    )
    with pytest.raises(GateError, match=f"^{re.escape(message)}$"):
        require_gates(gates[1:2])
    with pytest.raises(GateError) as raised:
        require_gates(gates)
    assert "\n" not in str(raised.value)
    assert set(REMEDIES) == set(NAMES)


def test_records_say_null_for_a_gate_that_was_not_examined(run: RunFolder) -> None:
    (_, shortcut, *_) = gate_records(check_gates(run, RunConfig()))
    assert shortcut == {
        "name": "shortcut", "passed": None,
        "found": "no audit for shortcuts was made (shortcuts.audit is off)",
        "fails": False,
    }  # fmt: skip
