"""A training that is killed goes on to the same weights."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from cxr_model import saving, trainer
from cxr_model.averaging import average_weights
from cxr_model.cache import FilmCache
from cxr_model.checkpoints import Checkpoints
from cxr_model.config import RunConfig, TrainingConfig
from cxr_model.errors import CheckpointMismatch, ConfigError, OtherFilms, StorageError
from cxr_model.index import write_index
from cxr_model.presets import smoke
from cxr_model.run_folder import RunFolder, sha256_file
from cxr_model.splits import assign_splits, write_splits
from cxr_model.stages import train

IDENTITY = {"settings": "a", "precision": "a", "films": "a"}


def state(number: int) -> dict[str, object]:
    return {"epoch": number, "weights": torch.full((3,), float(number)), "history": [{"a": 1.5}]}


def test_the_newest_state_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "kept", IDENTITY)
    assert checkpoints.latest() is None
    for number in (1, 2, 10):
        checkpoints.save(state(number), number)
    found = checkpoints.latest()
    assert found is not None
    assert found["epoch"] == 10
    assert torch.equal(found["weights"], torch.full((3,), 10.0))
    assert [path.name for path in checkpoints.files()] == ["step-00000010.pt", "step-00000002.pt"]


def test_files_of_a_training_that_went_back_are_dropped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    for step in (100, 150, 130):
        checkpoints.save(state(step), step)
    assert [path.name for path in checkpoints.files()] == ["step-00000130.pt", "step-00000100.pt"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a zip file", b"\x00" * 4096])
def test_a_damaged_state_is_told_and_the_one_before_is_taken(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1), 1)
    checkpoints.save(state(2), 2).write_bytes(damage)
    found = checkpoints.latest()
    assert found is not None
    assert found["epoch"] == 1
    assert "step-00000002.pt: cannot be read" in caplog.text


def test_a_disk_that_does_not_give_a_state_ends_the_training_and_costs_no_file(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1), 1)
    (tmp_path / "step-00000002.pt").mkdir()  # whoever runs this: it cannot be read as a file
    with pytest.raises(
        StorageError, match=r"step-00000002\.pt: cannot be read \(.*; mend the disk"
    ):
        checkpoints.latest()
    assert len(checkpoints.files()) == 2


@pytest.mark.parametrize(
    ("other", "kind", "told"),
    [
        ({"films": "b"}, OtherFilms, "other films; resume with those of the run"),
        ({"settings": "b"}, CheckpointMismatch, "other settings;"),
        ({"precision": "b", "films": "b"}, CheckpointMismatch, "other precision and films;"),
    ],
)
def test_a_state_of_another_training_is_refused_and_told_what_differs(
    tmp_path: Path, other: dict[str, str], kind: type[Exception], told: str
) -> None:
    Checkpoints(tmp_path, IDENTITY).save(state(1), 1)
    with pytest.raises(CheckpointMismatch, match=told) as found:
        Checkpoints(tmp_path, IDENTITY | other).latest()
    assert found.type is kind


def test_a_bit_that_turned_is_damage_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1), 1)
    newest = checkpoints.save({"epoch": 2, "weights": torch.full((4096,), 0.5)}, 2)
    data = bytearray(newest.read_bytes())
    data[data.index(torch.full((8,), 0.5).numpy().tobytes()) + 4000] ^= 1
    newest.write_bytes(data)
    found = checkpoints.latest()
    assert found is not None
    assert found["epoch"] == 1
    assert "is damaged); trying the one before" in caplog.text


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state(1), 1)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match=r"00000002\.pt: cannot be written \(No space left"):
        checkpoints.save(state(2), 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


CONFIG = replace(
    smoke(),
    data=replace(smoke().data, size_px=64),
    explain=replace(smoke().explain, occlusion_window_px=32, occlusion_stride_px=16),
    training=TrainingConfig(epochs=3, batch_size=4, checkpoint_minutes=1e-9, precision="float32"),
)

# What is killed: the same steps as here, in a process of its own, slowed so that it can be.
PROGRAM = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
from test_checkpoints import CONFIG
from cxr_model.cache import FilmCache
from cxr_model.checkpoints import Checkpoints
from cxr_model.run_folder import RunFolder
from cxr_model.stages import train
save = Checkpoints.save
Checkpoints.save = lambda *arguments: (time.sleep(0.05), save(*arguments))[1]
train(RunFolder(Path(sys.argv[1])), "r", CONFIG, FilmCache.open(Path(sys.argv[2])), lambda _: None)
"""


def started_run(root: Path, index: pd.DataFrame, config: RunConfig = CONFIG) -> RunFolder:
    run = RunFolder(root)
    write_index(index, run.index)
    write_splits(assign_splits(index, config.split), run.splits)
    return run


def comparable(run: RunFolder) -> pd.DataFrame:
    return pd.read_csv(run.history).drop(columns=["seconds", "films_per_second"])


@pytest.fixture(scope="module")
def unbroken(
    cached_phantoms: tuple[pd.DataFrame, Path], tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    run = started_run(tmp_path_factory.mktemp("unbroken"), cached_phantoms[0])
    train(run, "r", CONFIG, FilmCache.open(cached_phantoms[1]), lambda _: None)
    return run


@pytest.mark.parametrize("killed_at", [2, 9])
def test_a_training_killed_at_any_moment_ends_with_the_same_weights(
    cached_phantoms: tuple[pd.DataFrame, Path], unbroken: RunFolder, tmp_path: Path, killed_at: int
) -> None:
    run = started_run(tmp_path / "killed", cached_phantoms[0])
    command = [sys.executable, "-c", PROGRAM, run.root, cached_phantoms[1], Path(__file__).parent]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not (run.checkpoints / f"step-{killed_at:08d}.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not run.weights.exists()
    train(run, "r", CONFIG, FilmCache.open(cached_phantoms[1]), lambda _: None)
    assert sha256_file(run.weights) == sha256_file(unbroken.weights)
    pd.testing.assert_frame_equal(comparable(run), comparable(unbroken), check_exact=True)


@pytest.mark.parametrize("number", [2, 9])
def test_a_training_told_to_end_keeps_its_last_step_and_goes_on_to_the_same_weights(
    cached_phantoms: tuple[pd.DataFrame, Path],
    unbroken: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """At the worst moment: the weights have made their step, and their averages have not."""
    config = replace(CONFIG, training=replace(CONFIG.training, checkpoint_minutes=60))
    run = started_run(tmp_path / "ended", cached_phantoms[0])
    cache = FilmCache.open(cached_phantoms[1])
    steps = count(1)

    def end_or_average(*arguments: Any) -> None:
        if next(steps) == number:
            signal.raise_signal(signal.SIGTERM)
        average_weights(*arguments)

    monkeypatch.setattr(saving, "COPY_S", 0.0)
    monkeypatch.setattr(trainer, "average_weights", end_or_average)
    kept: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit):
            train(run, "r", config, cache, lambda _: None, lambda path: kept.append(path.name))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert kept[-1] == f"step-{number - 1:08d}.pt"
    monkeypatch.undo()
    train(run, "r", config, cache, lambda _: None)
    assert sha256_file(run.weights) == sha256_file(unbroken.weights)
    pd.testing.assert_frame_equal(comparable(run), comparable(unbroken), check_exact=True)


def test_a_finished_training_is_not_done_again(
    cached_phantoms: tuple[pd.DataFrame, Path], unbroken: RunFolder
) -> None:
    told: list[object] = []
    unbroken.history.unlink()  # a flow that goes on begins with its checkpoints alone
    train(unbroken, "r", CONFIG, FilmCache.open(cached_phantoms[1]), told.append)
    assert told == []
    assert len(comparable(unbroken)) == CONFIG.training.epochs


def test_other_settings_do_not_go_on_from_a_checkpoint(
    cached_phantoms: tuple[pd.DataFrame, Path], unbroken: RunFolder
) -> None:
    other = replace(CONFIG, training=replace(CONFIG.training, learning_rate=0.01))
    with pytest.raises(ConfigError, match="is of other settings"):
        train(unbroken, "r", other, FilmCache.open(cached_phantoms[1]), lambda _: None)
