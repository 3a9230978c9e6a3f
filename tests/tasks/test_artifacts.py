"""What the Prefect UI shows of a run."""

from pathlib import Path
from typing import Any

import pytest

from cxr_model.reports.report import build_report
from cxr_model.run_folder import read_json
from tasks import artifacts
from tests.cxr_model.reports.made_up_run import make_run, write_evidence


def test_heat_maps_in_the_ui_bear_the_verdict_of_each_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, ["normal", "covid"])
    build_report(run)
    told: dict[str, str] = {}

    def keep(*_: object, key: str, description: str, **__: Any) -> None:
        told[key] = description

    monkeypatch.setattr(artifacts, "show", keep)
    holdout = read_json(run.metrics)["holdout"]
    artifacts.show_figures.fn(run.root, "r1", holdout)
    titles = ("Occlusion", "Integrated Gradients", "Grad-CAM", "GradientShap")
    assert told["explanation-01"].startswith("r1; ")
    assert all(f"{title} not tested" in told["explanation-01"] for title in titles)
    assert told["loss"] == "r1"
    write_evidence(run, ["normal", "covid"], is_good=False)
    artifacts.show_figures.fn(run.root, "r1", holdout)
    assert "Grad-CAM failed" in told["explanation-01"]
    assert "Occlusion not tested" in told["explanation-01"]
