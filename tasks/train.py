"""The Prefect task around `cxr_model.stages.train`, with its live progress."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from torch.utils.tensorboard import SummaryWriter

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.run_folder import RunFolder
from cxr_model.stages import TrainSummary, train
from cxr_model.trainer import EpochRecord
from tasks.progress import ProgressBar


def _reporter(num_epochs: int, board: SummaryWriter) -> Callable[[EpochRecord], None]:
    """Tell each epoch to the log, the Prefect UI's progress bar and TensorBoard."""
    logger, bar = get_run_logger(), ProgressBar("training", "epochs trained")

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
        for name, value in asdict(record).items():
            if name != "epoch":
                board.add_scalar(name, value, record.epoch)

    return report


@task(cache_policy=NO_CACHE, task_run_name="train-{config.network.name}")
def train_network(
    run_root: Path, run_id: str, config: RunConfig, cache_folder: Path
) -> TrainSummary:
    """Train on the training split and keep the weights that do best on validation."""
    run = RunFolder(run_root)
    with SummaryWriter(run.tensorboard) as board:
        reporter = _reporter(config.training.epochs, board)
        return train(run, run_id, config, FilmCache.open(cache_folder), reporter)
