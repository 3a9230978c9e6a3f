from pathlib import Path

from cxr_model.run_folder import RunFolder, write_json
from cxr_model.run_verdicts import NOT_TESTED, SHOWN_METHOD, RunVerdicts


def test_what_a_run_found_against_itself_goes_with_its_network(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    gates = [("leakage", True), ("shortcut", False), ("calibration", None), ("explanation", False)]
    metrics = {
        "gates": [
            {"name": name, "passed": passed, "found": "", "fails": False} for name, passed in gates
        ],
        "explanations": {
            "methods": {SHOWN_METHOD: {"passed": False, "verdict": "Grad-CAM failed: insertion."}}
        },
    }
    write_json(run.metrics, metrics)
    verdicts = RunVerdicts.read(run)
    assert verdicts.heat_maps == "Grad-CAM failed: insertion."
    assert verdicts.told() == "; red gates: shortcut, explanation; undecided: calibration"


def test_of_a_network_without_a_measured_run_nothing_is_claimed(tmp_path: Path) -> None:
    verdicts = RunVerdicts.read(RunFolder(tmp_path))
    assert verdicts.told() == ""
    assert verdicts.heat_maps == "Nothing is known of its heat maps."
    write_json(RunFolder(tmp_path).metrics, {})
    assert RunVerdicts.read(RunFolder(tmp_path)).heat_maps == NOT_TESTED
