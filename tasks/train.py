"""The Prefect task around `cxr_model.stages.train`, with its live progress."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from cxr_model.config import RunConfig
from cxr_model.launch import train_on_devices
from cxr_model.run_folder import RunFolder
from cxr_model.stages import TrainSummary
from cxr_model.trainer import EpochRecord
from tasks.checkpoint_copies import CheckpointCopies
from tasks.storage_location import StoreLocation
from tasks.training_progress import TrainingProgress


@task(cache_policy=NO_CACHE, task_run_name="train-{config.network.name}")
def train_network(
    run_root: Path,
    run_id: str,
    config: RunConfig,
    cache_folder: Path,
    checkpoint_location: StoreLocation | None = None,
    in_use: Sequence[Path] = (),
) -> TrainSummary:
    """Train on the training split and keep the weights that do best on validation.

    Goes on from the run's newest checkpoint; the newest is copied to ``checkpoint_location``.
    Folders ``in_use`` get the time of each epoch.
    """
    run = RunFolder(run_root)

    def tell(record: EpochRecord) -> None:
        progress.tell(record)
        for folder in in_use:
            os.utime(folder)  # housekeeping takes what was not used for long

    with (
        TrainingProgress(run, run_id, config.training.epochs) as progress,
        _copier(checkpoint_location, run, run_id) as copy,
    ):
        return train_on_devices(run, run_id, config, cache_folder, tell, copy)


@contextmanager
def _copier(
    location: StoreLocation | None, run: RunFolder, run_id: str
) -> Iterator[Callable[[Path], None]]:
    """What to call with each checkpoint."""
    if location is None:
        yield lambda _: None
        return
    with CheckpointCopies(location, run, run_id, get_run_logger()) as copies:
        yield copies.put
