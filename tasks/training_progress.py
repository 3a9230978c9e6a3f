"""A training as it is watched: the log, a live table in the Prefect UI, TensorBoard."""

import math
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Self

import pandas as pd
from prefect import get_client, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from torch.utils.tensorboard import SummaryWriter

from cxr_model.run_folder import RunFolder
from cxr_model.trainer import EpochRecord
from tasks.artifacts import show
from tasks.progress import ProgressBar, shown_beside
from tasks.stage_clock import add_work


class TrainingProgress:
    """Tells each epoch to the log and to TensorBoard, and the newest one to the Prefect UI.

    There it is a progress bar and a table, artifacts with the keys ``training`` and
    ``training-progress``, whose last state is that of the last epoch.
    """

    def __init__(self, run: RunFolder, run_id: str, num_epochs: int) -> None:
        self._run, self._run_id, self._num_epochs = run, run_id, num_epochs
        self._logger = get_run_logger()
        self._num_told = 0
        self._best: EpochRecord | None = None
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._bar = ProgressBar("training", "epochs trained")
        heading = _heading(self._run_id)
        self._table = show(create_markdown_artifact, heading, key="training-progress")
        self._board = self._ends.enter_context(SummaryWriter(self._run.tensorboard))
        self._shown = self._ends.enter_context(shown_beside(self._show))
        return self

    def __exit__(self, *error: Any) -> None:
        # Nothing was told of a training that goes on after its last epoch.
        if error[0] is None and self._num_told == 0 and self._run.history.exists():
            for each in self._in_history():
                self._put_on_board(each)
        self._ends.__exit__(*error)

    def tell(self, record: EpochRecord) -> None:
        """Called after each epoch; waits for no server."""
        add_work(record.seconds)
        self._logger.info(
            "epoch %d/%d  loss %.3f  validation loss %.3f  balanced accuracy %.3f  "
            "%.0f films/s  %s left",
            record.epoch,
            self._num_epochs,
            record.train_loss,
            record.validation_loss,
            record.validation_balanced_accuracy,
            record.films_per_second,
            _left(record, self._num_epochs),
        )
        for each in self._untold(record):
            self._best = max(self._best or each, each, key=_accuracy)
            self._put_on_board(each)
        self._num_told = record.epoch
        self._shown.put((record, self._best or record))

    def _untold(self, record: EpochRecord) -> list[EpochRecord]:
        """The record itself; of a training that goes on first those from before it was broken."""
        if record.epoch == self._num_told + 1:
            return [record]
        return [each for each in self._in_history() if self._num_told < each.epoch <= record.epoch]

    def _in_history(self) -> list[EpochRecord]:
        rows = pd.read_csv(self._run.history).to_dict("records")
        return [EpochRecord(**{str(key): value for key, value in row.items()}) for row in rows]

    def _put_on_board(self, record: EpochRecord) -> None:
        for name, value in asdict(record).items():
            if name != "epoch":
                self._board.add_scalar(name, value, record.epoch)

    def _show(self, records: tuple[EpochRecord, EpochRecord]) -> None:
        self._bar.update(records[0].epoch, self._num_epochs)
        table = describe_epoch(self._run_id, *records, self._num_epochs)
        if self._table:
            get_client(sync_client=True).update_artifact(self._table, ArtifactUpdate(data=table))


def describe_epoch(run_id: str, record: EpochRecord, best: EpochRecord, num_epochs: int) -> str:
    """Markdown: the newest figures of a training, those of validation where there is any."""
    rows = {"epoch": f"{record.epoch} of {num_epochs}", "loss": f"{record.train_loss:.3f}"}
    if math.isfinite(record.validation_loss):
        rows |= {
            "validation loss": f"{record.validation_loss:.3f}",
            "balanced accuracy": f"{_accuracy(record):.3f}",
            "highest so far": f"{_accuracy(best):.3f} in epoch {best.epoch}",
        }
    rows |= {
        "films per second": f"{record.films_per_second:.0f}",
        "time left": _left(record, num_epochs),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([_heading(run_id), "", "| | |", "|---|---|", *lines])


def _heading(run_id: str) -> str:
    return f"Training of {run_id}"


def _accuracy(record: EpochRecord) -> float:
    return record.validation_balanced_accuracy


def _left(record: EpochRecord, num_epochs: int) -> str:
    """Minutes and seconds, if all epochs take as long as this one."""
    minutes, seconds = divmod(round((num_epochs - record.epoch) * record.seconds), 60)
    return f"{minutes}:{seconds:02d}"
