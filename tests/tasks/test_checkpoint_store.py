"""Checkpoints in the bucket: the newest one, whole, with what is needed to go on."""

from pathlib import Path
from zipfile import ZipFile

import pytest

from cxr_model.errors import ConfigError, StorageError
from cxr_model.run_folder import RunFolder, write_json
from tasks.checkpoint_store import (
    CheckpointWriter,
    drop_checkpoints,
    fetch_checkpoint,
    read_run_settings,
    require_unbegun,
)
from tasks.storage import ObjectStore


def started_run(root: Path) -> RunFolder:
    run = RunFolder(root)
    write_json(run.config, {"preset": "smoke"})
    run.checkpoints.mkdir()
    return run


def checkpoint(run: RunFolder, step: int) -> Path:
    path = run.checkpoints / f"step-{step:08d}.pt"
    with ZipFile(path, "w") as archive:
        archive.writestr("state", bytes([step]) * 1000)
    return path


def put_checkpoints(store: ObjectStore, run: RunFolder, run_id: str, *steps: int) -> None:
    """As one training does; a training that goes on is another call."""
    writer = CheckpointWriter(store, run, run_id)
    for step in steps:
        path = checkpoint(run, step)
        with path.open("rb") as file:
            writer.put(file, path.name)


def keys(store: ObjectStore, run_id: str) -> list[str]:
    return [entry.key.split("/")[-1] for entry in store.list_objects(f"checkpoints/{run_id}/")]


def test_another_machine_goes_on_from_the_newest_checkpoint(
    either_store: ObjectStore, tmp_path: Path
) -> None:
    run = started_run(tmp_path / "here")
    put_checkpoints(either_store, run, "r", 3, 6)
    elsewhere = RunFolder(tmp_path / "elsewhere")
    assert read_run_settings(either_store, elsewhere, "r") == {"preset": "smoke"}
    assert fetch_checkpoint(either_store, elsewhere, "r")
    (fetched,) = elsewhere.checkpoints.iterdir()
    assert fetched.name == "step-00000006.pt"
    assert fetched.read_bytes() == (run.checkpoints / fetched.name).read_bytes()
    assert keys(either_store, "r") == ["config.json", "latest.json", "step-00000006.pt"]


def test_a_training_that_goes_on_drops_what_the_killed_one_left(
    store: ObjectStore, tmp_path: Path
) -> None:
    run = started_run(tmp_path)
    put_checkpoints(store, run, "r", 3, 6)
    store.write_bytes("checkpoints/r/step-00000009.pt", b"killed before latest.json told of it")
    put_checkpoints(store, run, "r", 7)
    assert keys(store, "r") == ["config.json", "latest.json", "step-00000007.pt"]


def test_a_state_from_before_a_roll_back_gives_way_to_the_one_after_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    run = started_run(tmp_path / "here")
    put_checkpoints(store, run, "r", 9, 5)
    elsewhere = RunFolder(tmp_path / "elsewhere")
    assert fetch_checkpoint(store, elsewhere, "r")
    assert [path.name for path in elsewhere.checkpoints.iterdir()] == ["step-00000005.pt"]


@pytest.mark.parametrize("step", [6, 7])
def test_the_buckets_checkpoint_stands_in_for_a_damaged_one(
    step: int, store: ObjectStore, tmp_path: Path
) -> None:
    run, elsewhere = started_run(tmp_path / "here"), started_run(tmp_path / "elsewhere")
    put_checkpoints(store, run, "r", 6)
    kept = checkpoint(elsewhere, step)
    assert not fetch_checkpoint(store, elsewhere, "r")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    assert fetch_checkpoint(store, elsewhere, "r")
    fetched = elsewhere.checkpoints / "step-00000006.pt"
    assert fetched.read_bytes() == (run.checkpoints / fetched.name).read_bytes()


def test_the_runs_own_folder_comes_first(store: ObjectStore, tmp_path: Path) -> None:
    run = started_run(tmp_path)
    assert read_run_settings(store, run, "never copied") == {"preset": "smoke"}


def test_a_run_without_a_checkpoint_has_none(store: ObjectStore, tmp_path: Path) -> None:
    assert not fetch_checkpoint(store, RunFolder(tmp_path), "r")


def test_a_run_that_has_not_ended_is_not_begun_anew(
    either_store: ObjectStore, tmp_path: Path
) -> None:
    run, elsewhere = started_run(tmp_path / "here"), RunFolder(tmp_path / "elsewhere")
    require_unbegun(either_store, run, "r")
    checkpoint(run, 3)
    with pytest.raises(ConfigError, match="go on with --resume r, or choose another --run-id"):
        require_unbegun(either_store, run, "r")
    put_checkpoints(either_store, run, "r", 6)
    with pytest.raises(ConfigError, match="was begun and has not ended"):
        require_unbegun(either_store, elsewhere, "r")
    require_unbegun(either_store, elsewhere, "another")


def test_an_unknown_run_is_told_with_where_it_was_looked_for(
    store: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=r"run r: neither .*checkpoints/r/ knows it"):
        read_run_settings(store, RunFolder(tmp_path / "none"), "r")


def test_a_published_run_leaves_no_checkpoint(store: ObjectStore, tmp_path: Path) -> None:
    run = started_run(tmp_path)
    put_checkpoints(store, run, "r", 1)
    put_checkpoints(store, run, "r2", 1)
    drop_checkpoints(store, "r")
    assert {entry.key.split("/")[1] for entry in store.list_objects("checkpoints/")} == {"r2"}
