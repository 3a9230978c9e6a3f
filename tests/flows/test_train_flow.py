"""What the main job's flow decides by itself; with a worker it is in `test_main_job`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.testing.utilities import prefect_test_harness

import flows.train
from cxr_model.config import RunConfig
from cxr_model.errors import CheckpointMismatch, OtherFilms
from cxr_model.run_folder import RunFolder, write_json
from flows.settings import Settings
from tasks.dataset_state import SourceState


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called when the only checkpoint is of other films, or else of another precision."""
    calls: list[str] = []

    def train_network(run_root: Path, run_id: str, *_: Any) -> str:
        calls.append("train")
        if RunFolder(run_root).checkpoints.exists():
            kind = OtherFilms if run_id == "films" else CheckpointMismatch
            raise kind(f"step-1.pt: is of other {run_id}")
        return "weights"

    monkeypatch.setattr(flows.train, "train_network", train_network)
    monkeypatch.setattr(flows.train, "forget_checkpoints", lambda *_: calls.append("forget"))
    return calls


def train(root: Path, *, resume: bool, other: str = "films") -> object:
    run = RunFolder(root)
    run.checkpoints.mkdir()
    settings = Settings.from_environment({"CXR_HOME": str(root)})
    return flows.train._train(run, other, RunConfig(), root, settings, [], resume=resume)


def test_a_run_started_anew_by_itself_trains_anew_where_films_arrived(
    calls: list[str], tmp_path: Path
) -> None:
    assert train(tmp_path, resume=False) == "weights"
    assert calls == ["train", "forget", "train"]


def test_whoever_asks_for_a_resumption_is_told_instead(calls: list[str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match="other films"):
        train(tmp_path, resume=True)
    assert calls == ["train"]
    assert RunFolder(tmp_path).checkpoints.exists()


def test_a_device_of_another_precision_costs_no_checkpoint(
    calls: list[str], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointMismatch, match="other precision"):
        train(tmp_path, resume=False, other="precision")
    assert calls == ["train"]
    assert RunFolder(tmp_path).checkpoints.exists()


@pytest.mark.slow
def test_one_that_crashed_behind_its_publication_still_remembers_its_source(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the watch over the source would have the same films trained on once more."""
    state, remember = SourceState("digest", "phantom:9"), Mock()
    write_json(RunFolder(settings.runs_dir / "r").source_state, asdict(state))
    for name in ("started_again", "fetch_if_published", "consider_promotion", "enforce_gates"):
        monkeypatch.setattr(flows.train, name, Mock(return_value=True))
    monkeypatch.setattr(flows.train, "remember_trained", remember)
    with prefect_test_harness(server_startup_timeout=120):
        assert flows.train.train(run_id="r") == "r"
    assert remember.call_args.args[2] == state
