import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.logging import disable_run_logger
from pydantic import TypeAdapter

from cxr_model.config import RunConfig
from cxr_model.errors import GateError, StorageError
from cxr_model.evidence_config import GateConfig
from cxr_model.index import COLUMNS, write_index
from cxr_model.run_folder import RunFolder, write_json
from cxr_model.splits import write_splits
from tasks.evidence import enforce_gates
from tasks.publish import check_store, fetch_if_published, publish
from tasks.registry import VERSION_FILES
from tasks.retries import on_transient_io
from tasks.run_store import read_manifest
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation


def test_a_published_run_is_read_at_the_address_returned(
    store: ObjectStore, headline: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("<p>report</p>")
    with disable_run_logger():
        check_store.fn(store.location, "run-1")
        url = publish.fn(store.location, tmp_path, "run-1", headline)
    assert read_manifest(store, "latest").headline == headline
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"<p>report</p>"
    with pytest.raises(
        StorageError, match="run run-1 is published already; choose another --run-id"
    ):
        check_store.fn(store.location, "run-1")


def test_a_run_published_before_its_crash_meets_its_gates_on_another_machine(
    store: ObjectStore, headline: dict[str, Any], tmp_path: Path
) -> None:
    here, there = tmp_path / "here" / "run-1", tmp_path / "there"
    for key in VERSION_FILES:
        (here / key).parent.mkdir(parents=True, exist_ok=True)
        (here / key).write_text(key)
    film = {"path": "a.png", "sha256": "a", "label": "normal", "group": "a", "split": "holdout"}
    write_splits(pd.DataFrame([film]), RunFolder(here).splits)
    numbers = dict.fromkeys(("width", "height", "jpeg_quality", "chroma"), 1)
    write_index(
        pd.DataFrame([dict.fromkeys(COLUMNS, "") | film | numbers])[list(COLUMNS)],
        RunFolder(here).index,
    )
    share = {"value": 0.1, "ci_low": 0.05, "ci_high": 0.2, "n": 50}
    red = {"alarm": True, "alarms": ["covid is told by the border"], "headline": share}
    write_json(RunFolder(here).shortcuts, red)
    assert not fetch_if_published.fn(store.location, there, "run-1")
    with disable_run_logger():
        publish.fn(store.location, here, "run-1", headline)
    assert fetch_if_published.fn(store.location, there, "run-1")
    for key in VERSION_FILES:
        assert (there / "run-1" / key).read_bytes() == (here / key).read_bytes()
    config = RunConfig(gates=GateConfig(fail_on=("shortcut",)))
    with pytest.raises(GateError, match="covid is told by the border"):
        enforce_gates.fn(there / "run-1", config)


def test_a_server_that_is_away_is_asked_again() -> None:
    for task in (check_store, publish):
        assert task.retry_condition_fn is on_transient_io


def test_a_location_passes_through_a_flow_parameter_without_a_secret(
    location: StoreLocation,
) -> None:
    adapter = TypeAdapter(StoreLocation)
    text = adapter.dump_json(location)
    assert adapter.validate_json(text) == location
    assert location.credentials_file is not None
    secret = location.credentials_file.read_text().split()[-1]
    assert secret not in text.decode()
