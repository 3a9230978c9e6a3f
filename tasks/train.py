"""The Prefect task around `cxr_model.stages.train`, with its live progress."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from torch.utils.tensorboard import SummaryWriter

from cxr_model.config import RunConfig
from cxr_model.errors import StorageError
from cxr_model.launch import train_on_devices
from cxr_model.run_folder import RunFolder
from cxr_model.stages import TrainSummary
from cxr_model.trainer import EpochRecord
from tasks.checkpoint_store import put_checkpoint
from tasks.progress import ProgressBar
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation


def _reporter(
    num_epochs: int, history: Path, board: SummaryWriter
) -> Callable[[EpochRecord], None]:
    """Tell each epoch to the log, the Prefect UI's progress bar and TensorBoard."""
    logger, bar = get_run_logger(), ProgressBar("training", "epochs trained")
    num_on_board = 0

    def report(record: EpochRecord) -> None:
        left_s = (num_epochs - record.epoch) * record.seconds
        logger.info(
            "epoch %d/%d  loss %.3f  validation loss %.3f  balanced accuracy %.3f  "
            "%.0f films/s  %d:%02d left",
            record.epoch,
            num_epochs,
            record.train_loss,
            record.validation_loss,
            record.validation_balanced_accuracy,
            record.films_per_second,
            *divmod(round(left_s), 60),
        )
        bar.update(record.epoch, num_epochs)
        nonlocal num_on_board
        # From the file: a resumed training tells of its new epochs only.
        for row in pd.read_csv(history).iloc[num_on_board:].to_dict("records"):
            num_on_board += 1
            for name, value in row.items():
                if name != "epoch":
                    board.add_scalar(str(name), value, num_on_board)

    return report


def _copier(location: StoreLocation | None, run: RunFolder, run_id: str) -> Callable[[Path], None]:
    """Copy each epoch's checkpoint to ``location``; a bucket that is away stops no training."""
    logger = get_run_logger()

    def copy(path: Path) -> None:
        if location is None:
            return
        try:
            with ObjectStore(location) as store:
                put_checkpoint(store, run, run_id, path)
        except StorageError as error:
            logger.warning("checkpoint not copied, the next one will be: %s", error)

    return copy


@task(cache_policy=NO_CACHE, task_run_name="train-{config.network.name}")
def train_network(
    run_root: Path,
    run_id: str,
    config: RunConfig,
    cache_folder: Path,
    checkpoint_location: StoreLocation | None = None,
) -> TrainSummary:
    """Train on the training split and keep the weights that do best on validation.

    Goes on from the run's newest checkpoint; each one is copied to ``checkpoint_location``.
    """
    run = RunFolder(run_root)
    with SummaryWriter(run.tensorboard) as board:
        return train_on_devices(
            run,
            run_id,
            config,
            cache_folder,
            _reporter(config.training.epochs, run.history, board),
            _copier(checkpoint_location, run, run_id),
        )
