"""Checkpoints reach the bucket beside the training, whatever happens to their files."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from cxr_model.run_folder import RunFolder, write_json
from tasks.checkpoint_copies import CheckpointCopies
from tasks.checkpoint_store import CheckpointWriter, fetch_checkpoint
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation

logger = logging.getLogger(__name__)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    write_json(run.config, {"preset": "smoke"})
    run.checkpoints.mkdir()
    return run


def checkpoint(run: RunFolder, step: int) -> Path:
    path = run.checkpoints / f"step-{step:08d}.pt"
    path.write_bytes(bytes([step]) * 100_000)
    return path


def test_the_last_checkpoint_is_in_the_bucket_when_the_training_ends(
    location: StoreLocation, store: ObjectStore, run: RunFolder, tmp_path: Path
) -> None:
    with CheckpointCopies(location, run, "r", logger) as copies:
        for step in range(1, 21):
            copies.put(checkpoint(run, step))
    elsewhere = RunFolder(tmp_path / "elsewhere")
    assert fetch_checkpoint(store, elsewhere, "r")
    (fetched,) = elsewhere.checkpoints.iterdir()
    assert fetched.read_bytes() == bytes([20]) * 100_000
    assert len(store.list_objects("checkpoints/r/")) == 3


def test_also_when_it_fails(location: StoreLocation, store: ObjectStore, run: RunFolder) -> None:
    def train() -> None:
        with CheckpointCopies(location, run, "r", logger) as copies:
            copies.put(checkpoint(run, 1))
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        train()
    assert json.loads(store.read_bytes("checkpoints/r/latest.json"))["name"] == "step-00000001.pt"


def test_a_file_deleted_before_its_turn_or_in_the_middle_of_it_is_copied_whole(
    location: StoreLocation,
    store: ObjectStore,
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, begun, may_go_on = CheckpointWriter.put, Event(), Event()

    def slow_put(*arguments: object) -> None:
        begun.set()
        assert may_go_on.wait(10)
        put(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(CheckpointWriter, "put", slow_put)
    with CheckpointCopies(location, run, "r", logger) as copies:
        copies.put(checkpoint(run, 1))
        assert begun.wait(10)
        for step in (2, 3):
            copies.put(checkpoint(run, step))
        for path in run.checkpoints.iterdir():
            path.unlink()
        copies.put(run.checkpoints / "step-00000003.pt")  # gone already: no error either
        may_go_on.set()
    elsewhere = RunFolder(tmp_path / "elsewhere")
    assert fetch_checkpoint(store, elsewhere, "r")
    (fetched,) = elsewhere.checkpoints.iterdir()
    assert fetched.read_bytes() == bytes([3]) * 100_000


def test_a_bucket_that_is_away_is_a_warning(
    location: StoreLocation, run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    away = replace(location, endpoint_url="http://127.0.0.1:9")
    with CheckpointCopies(away, run, "r", logger) as copies:
        copies.put(checkpoint(run, 1))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "checkpoint not copied, the next one will be: s3://" in record.message
    assert "CXR_S3_ENDPOINT_URL" in record.message
