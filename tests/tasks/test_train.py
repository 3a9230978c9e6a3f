import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks.train
from cxr_model.config import RunConfig
from tasks.train import train_network


def test_what_a_long_training_reads_is_marked_as_used_with_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else housekeeping takes it for idle after a day."""
    seen: list[float] = []

    def two_epochs(*arguments: Any) -> None:
        for _ in range(2):
            os.utime(tmp_path, (0, 0))
            arguments[4](None)
            seen.append(tmp_path.stat().st_mtime)

    progress = SimpleNamespace(tell=lambda _: None)
    monkeypatch.setattr(tasks.train, "TrainingProgress", lambda *_: nullcontext(progress))
    monkeypatch.setattr(tasks.train, "train_on_devices", two_epochs)
    train_network.fn(tmp_path, "r", RunConfig(), tmp_path, in_use=[tmp_path])
    assert len(seen) == 2
    assert all(seen)
