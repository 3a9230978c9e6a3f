"""When a training's state is written: after each epoch, within long ones, at a signal to end."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr_model.checkpoints import Checkpoints
from cxr_model.trainer import State, Trainer

COPY_S = 10.0
"""At most so many seconds, and one step, are lost where a signal ends the process."""

log = logging.getLogger(__name__)


class Saver:
    """Writes ``trainer``'s state to ``checkpoints``; ``on_signal`` hears of the last file."""

    def __init__(
        self, trainer: Trainer, checkpoints: Checkpoints, on_signal: Callable[[Path], object]
    ) -> None:
        self._trainer, self._checkpoints = trainer, checkpoints
        self._on_signal = on_signal
        self._saved_at = self._copied_at = time.monotonic()
        self._copy: tuple[State, int] | None = None

    def after_step(self) -> None:
        """Write the state, or copy it in memory, if it is time."""
        now = time.monotonic()
        is_due = now - self._saved_at > 60 * self._trainer.config.checkpoint_minutes
        if not (is_due or now - self._copied_at > COPY_S) or not self._trainer.is_sound():
            return
        self._copy, self._copied_at = (self._trainer.snapshot(), self._trainer.step), now
        if is_due:
            self._checkpoints.save(*self._copy)
            self._saved_at = now

    def after_epoch(self) -> Path:
        """Write the state; returns its file."""
        path = self._checkpoints.save(self._trainer.state(), self._trainer.step)
        self._copy, self._saved_at = None, time.monotonic()
        return path

    @contextmanager
    def until_told_to_end(self) -> Iterator[None]:
        """Around the training: what a signal's handler raises in it writes the newest copy.

        The handler may break into the middle of a step, where weights, their averages and
        the optimiser are not of one moment; the copy is. The exception goes on. After an
        error of the training's own, an ``Exception``, the checkpoint before it stands.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            if self._copy is not None:
                path = self._checkpoints.save(*self._copy)
                log.info("told to end: step %d is kept", self._copy[1])
                self._on_signal(path)
            raise
