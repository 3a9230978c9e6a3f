"""The flow of a cross-validation by itself; with a worker it is in `test_main_job`."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.testing.utilities import prefect_test_harness

import flows.crossval
from cxr_model.config import RunConfig, TrainingConfig
from cxr_model.config_json import read_config
from cxr_model.errors import ConfigError
from cxr_model.folds import CrossvalConfig
from cxr_model.run_folder import RunFolder, read_json, write_json
from flows.settings import Settings
from tasks.run_store import publish_run
from tasks.storage import ObjectStore


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def test_one_that_crashed_behind_its_publication_is_done(
    store: ObjectStore,
    settings: Settings,
    tmp_path: Path,
    headline: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "crossval.json").write_text("{}")
    publish_run(store, RunFolder(tmp_path / "run"), "folds", headline)
    store.delete("index.html")  # as if it had not come so far
    checkpoints = RunFolder(settings.runs_dir / "folds").fold("naive-1-1").checkpoints
    checkpoints.mkdir(parents=True)
    monkeypatch.setattr(flows.crossval, "started_again", lambda: True)
    assert flows.crossval.crossval(run_id="folds") == "folds"
    assert b"folds" in store.read_bytes("index.html")
    assert not checkpoints.exists()


@pytest.mark.parametrize("resume", [True, False])
def test_folds_of_films_that_changed_are_dropped_where_nobody_asked_to_go_on(
    resume: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[tuple[Path, bool]] = []

    def stop(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(flows.crossval, "started_again", lambda: True)
    for name in ("ingest", "index_films", "check_folds"):
        monkeypatch.setattr(flows.crossval, name, Mock())
    monkeypatch.setattr(
        flows.crossval, "settle_begun_folds", lambda root, _, drop: settled.append((root, drop))
    )
    monkeypatch.setattr(flows.crossval, "build_image_cache", stop)
    write_json(RunFolder(settings.runs_dir / "folds").crossval_config, {})
    with pytest.raises(InterruptedError):
        flows.crossval.crossval(run_id="folds", resume=resume)
    assert settled == [(settings.runs_dir / "folds", not resume)]


@pytest.mark.parametrize("restarted", [True, False])
def test_whoever_asks_for_other_settings_of_folds_that_are_begun_is_refused(
    restarted: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(settings.runs_dir / "begun")
    write_json(run.config, asdict(RunConfig()))
    write_json(run.crossval_config, asdict(CrossvalConfig()))
    run.folds.mkdir()
    monkeypatch.setattr(flows.crossval, "started_again", lambda: restarted)
    monkeypatch.setattr(flows.crossval, "ingest", Mock(side_effect=InterruptedError))
    other = RunConfig(training=TrainingConfig(epochs=3))
    with pytest.raises(ConfigError, match=r"training\.epochs=3: run begun was begun with 60"):
        flows.crossval.crossval(other, run_id="begun", resume=True)
    with pytest.raises(ConfigError, match=r"crossval\.num_folds=3: run begun was begun with 5"):
        flows.crossval.crossval(crossval=CrossvalConfig(num_folds=3), run_id="begun", resume=True)
    # What is refused leaves the settings that the folds are of.
    assert read_config(run.config) == RunConfig()
    assert read_json(run.crossval_config)["num_folds"] == 5
    with pytest.raises(InterruptedError):
        flows.crossval.crossval(run_id="begun", resume=True)
    # What begins anew by itself may do so on a machine that has none of it.
    with pytest.raises(InterruptedError if restarted else ConfigError):
        flows.crossval.crossval(run_id="elsewhere", resume=True)
