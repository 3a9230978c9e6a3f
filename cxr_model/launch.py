"""Training on one device or on several, one process a device, under torchrun.

Also a program of its own: on a machine without Prefect

    torchrun --standalone --nproc-per-node 2 -m cxr_model.launch RUN_FOLDER CACHE_FOLDER

trains the run whose ``config.json`` and ``data/splits.csv`` lie in RUN_FOLDER.
"""

import argparse
import functools
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.config_json import read_config
from cxr_model.errors import CxrError, DeviceError, kinds_of_error
from cxr_model.run_folder import RunFolder, read_json, write_json, write_table
from cxr_model.stages import TrainSummary, train
from cxr_model.trainer import EpochRecord

_POLL_S = 0.5
# The last line of a process's traceback; torchrun's own comes after it and says less.
_RAISED = re.compile(r"(?:\[rank\d+\]: )?([\w.]+(?:Error|Exception)\b(?<!ChildFailedError).*)")
_EPOCHS = ".training.csv"
"""Those trained now; ``history.csv`` has the ones from before a training was resumed too."""


def train_on_devices(
    run: RunFolder,
    run_id: str,
    config: RunConfig,
    cache_folder: Path,
    on_epoch: Callable[[EpochRecord], None],
    on_checkpoint: Callable[[Path], None],
) -> TrainSummary:
    """`stages.train`, here or, for more than one device, in processes of torchrun's.

    Raises the ``CxrError`` that ended the processes, or ``DeviceError`` with the place of
    their output.
    """
    if config.training.num_devices == 1:
        cache = FilmCache.open(cache_folder)
        return train(run, run_id, config, cache, on_epoch, on_checkpoint)
    summary, log = run.root / ".training.json", run.root / ".training.log"
    alive, epochs = run.root / ".training.alive", run.root / _EPOCHS
    for leftover in (summary, alive, epochs):
        leftover.unlink(missing_ok=True)
    os.mkfifo(alive)
    held_open = os.open(alive, os.O_RDWR)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(config.training.num_devices)),
        *("-m", "cxr_model.launch", str(run.root), str(cache_folder), "--run-id", run_id),
        *("--end-with", str(alive)),
    ]
    followed = _Followed(run, epochs, on_epoch, on_checkpoint)
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            while process.poll() is None:
                followed.look()
                time.sleep(_POLL_S)
        finally:
            process.terminate()
            os.close(held_open)
            alive.unlink()
    followed.look()
    if process.returncode:
        raise _failure(log)
    return TrainSummary(**read_json(summary))


class _Followed:
    """Tells of epochs and checkpoints that other processes write."""

    def __init__(
        self,
        run: RunFolder,
        epochs: Path,
        on_epoch: Callable[[EpochRecord], None],
        on_checkpoint: Callable[[Path], None],
    ) -> None:
        self.run, self.epochs = run, epochs
        self.on_epoch, self.on_checkpoint = on_epoch, on_checkpoint
        self.num_told = 0
        self.newest: Path | None = None

    def look(self) -> None:
        epochs = pd.read_csv(self.epochs) if self.epochs.exists() else pd.DataFrame()
        for row in epochs.iloc[self.num_told :].to_dict("records"):
            self.on_epoch(EpochRecord(**{str(name): value for name, value in row.items()}))
        self.num_told = len(epochs)
        newest = max(self.run.checkpoints.glob("step-*.pt"), default=None)
        if newest is not None and newest != self.newest:
            self.newest = newest
            self.on_checkpoint(newest)


def _writer_of(epochs: Path) -> Callable[[EpochRecord], None]:
    """For ``on_epoch``: what `_Followed` reads."""
    told: list[dict[str, Any]] = []

    def tell(record: EpochRecord) -> None:
        told.append(asdict(record))
        write_table(epochs, pd.DataFrame(told))

    return tell


def _failure(log: Path) -> CxrError:
    lines = log.read_text(errors="replace").splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    if told:
        kind, _, message = told[0].removeprefix("error: ").partition(": ")
        return kinds_of_error()[kind](message)
    raised = [match[1] for line in lines if (match := _RAISED.match(line))]
    words = [line.strip() for line in lines if re.search(r"\w", line)]
    reason = (raised or words[::-1] or ["no output"])[0]
    return DeviceError(f"training on several devices ended with: {reason}; see {log}")


def _end_with(alive: Path) -> None:
    """The other end is held by whoever began the training, and closes even if they are killed."""
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for one that is dead
    os.set_blocking(reader, True)
    os.read(reader, 1)
    os._exit(1)


@functools.cache
def end_with_parent() -> None:
    """Have a process of a pool end with whoever made the pool, also when they are killed.

    Else it would train on beside the one that takes its place, and then wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """One of torchrun's processes."""
    parser = argparse.ArgumentParser(prog="cxr_model.launch")
    parser.add_argument("run", type=Path, help="folder with config.json and data/splits.csv")
    parser.add_argument("cache", type=Path, help="folder of the decoded films")
    parser.add_argument("--run-id", default="run")
    parser.add_argument("--end-with", type=Path, help="pipe that closes when all is to end")
    arguments = parser.parse_args()
    if arguments.end_with:
        threading.Thread(target=_end_with, args=[arguments.end_with], daemon=True).start()
    run = RunFolder(arguments.run)
    try:
        config = read_config(run.config)
        on_gpu = config.training.device != "cpu" and torch.cuda.is_available()
        if on_gpu:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            config = replace(config, training=replace(config.training, device=device))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if on_gpu else "gloo")
        try:
            cache = FilmCache.open(arguments.cache)
            tell = _writer_of(run.root / _EPOCHS)
            summary = train(run, arguments.run_id, config, cache, tell)
            if dist.get_rank() == 0:
                write_json(run.root / ".training.json", asdict(summary))
        finally:
            dist.destroy_process_group()
    except CxrError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
