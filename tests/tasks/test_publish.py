import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.logging import disable_run_logger
from prefect.states import Failed
from pydantic import TypeAdapter

from cxr_model.errors import StorageError
from tasks.publish import check_store, on_transient_io, publish
from tasks.run_store import read_manifest
from tasks.storage import ObjectStore
from tasks.storage_errors import MissingObjectError, TransientStorageError
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
    with pytest.raises(StorageError, match="run id run-1 exists; choose another --run-id"):
        check_store.fn(store.location, "run-1")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TransientStorageError("server is away"), True),
        (StorageError("key is refused"), False),
        (MissingObjectError("no such object"), False),
        (ValueError("a defect"), False),
    ],
)
def test_only_what_may_pass_by_itself_is_tried_again(error: Exception, again: bool) -> None:
    run = TaskRun.model_construct()
    for task in (check_store, publish):
        assert task.retry_condition_fn is on_transient_io
        assert on_transient_io(task, run, Failed(data=error)) is again


def test_a_location_passes_through_a_flow_parameter_without_a_secret(
    location: StoreLocation,
) -> None:
    adapter = TypeAdapter(StoreLocation)
    text = adapter.dump_json(location)
    assert adapter.validate_json(text) == location
    assert location.credentials_file is not None
    secret = location.credentials_file.read_text().split()[-1]
    assert secret not in text.decode()
