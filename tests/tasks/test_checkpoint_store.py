"""Checkpoints in the bucket: the newest one, whole, with what is needed to go on."""

from pathlib import Path

import pytest

from cxr_model.errors import StorageError
from cxr_model.run_folder import RunFolder, write_json
from tasks.checkpoint_store import (
    drop_checkpoints,
    fetch_checkpoint,
    put_checkpoint,
    read_run_settings,
)
from tasks.storage import ObjectStore


def started_run(root: Path) -> RunFolder:
    run = RunFolder(root)
    write_json(run.config, {"preset": "smoke"})
    run.checkpoints.mkdir()
    return run


def checkpoint(run: RunFolder, step: int) -> Path:
    path = run.checkpoints / f"step-{step:08d}.pt"
    path.write_bytes(bytes([step]) * 1000)
    return path


def test_another_machine_goes_on_from_the_newest_checkpoint(
    either_store: ObjectStore, tmp_path: Path
) -> None:
    run = started_run(tmp_path / "here")
    for step in (3, 6):
        put_checkpoint(either_store, run, "r", checkpoint(run, step))
    elsewhere = RunFolder(tmp_path / "elsewhere")
    assert read_run_settings(either_store, elsewhere, "r") == {"preset": "smoke"}
    assert fetch_checkpoint(either_store, elsewhere, "r")
    (fetched,) = elsewhere.checkpoints.iterdir()
    assert fetched.name == "step-00000006.pt"
    assert fetched.read_bytes() == bytes([6]) * 1000
    kept = {entry.key for entry in either_store.list_objects("checkpoints/r/")}
    assert len(kept) == 3, "the checkpoint before is not kept in the bucket"


def test_the_runs_own_folder_comes_first(store: ObjectStore, tmp_path: Path) -> None:
    run = started_run(tmp_path)
    assert read_run_settings(store, run, "never copied") == {"preset": "smoke"}


def test_a_run_without_a_checkpoint_has_none(store: ObjectStore, tmp_path: Path) -> None:
    assert not fetch_checkpoint(store, RunFolder(tmp_path), "r")


def test_an_unknown_run_is_told_with_where_it_was_looked_for(
    store: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=r"run r: neither .*checkpoints/r/ knows it"):
        read_run_settings(store, RunFolder(tmp_path / "none"), "r")


def test_a_published_run_leaves_no_checkpoint(store: ObjectStore, tmp_path: Path) -> None:
    run = started_run(tmp_path)
    put_checkpoint(store, run, "r", checkpoint(run, 1))
    put_checkpoint(store, run, "r2", checkpoint(run, 1))
    drop_checkpoints(store, "r")
    assert {entry.key.split("/")[1] for entry in store.list_objects("checkpoints/")} == {"r2"}
