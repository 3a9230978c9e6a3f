"""The flow of a cross-validation by itself; with a worker it is in `test_main_job`."""

from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

import flows.crossval
from cxr_model.run_folder import RunFolder
from flows.settings import Settings
from tasks.run_store import publish_run
from tasks.storage import ObjectStore


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
    monkeypatch.setattr(flows.crossval, "started_again", lambda: True)
    with prefect_test_harness(server_startup_timeout=120):
        assert flows.crossval.crossval(run_id="folds") == "folds"
    assert not settings.home.exists()
