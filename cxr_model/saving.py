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
STEPS_TOGETHER = 8
"""Several processes ask the first one's clock after as many steps: it costs each a message."""

log = logging.getLogger(__name__)


class Saver:
    """Writes ``trainer``'s state to ``checkpoints``; ``on_file`` hears of each file.

    Of several processes the first one writes. They are told to end by being killed, so no
    copy is made for that.
    """

    def __init__(
        self, trainer: Trainer, checkpoints: Checkpoints, on_file: Callable[[Path], object]
    ) -> None:
        self._trainer, self._checkpoints = trainer, checkpoints
        self._on_file = on_file
        self._saved_at = self._copied_at = time.monotonic()
        self._copy: tuple[State, int] | None = None

    def after_step(self) -> None:
        """Write the state, or copy it in memory, if it is time."""
        now = time.monotonic()
        is_due = now - self._saved_at > 60 * self._trainer.config.checkpoint_minutes
        if self._trainer.processes.count > 1:
            self._after_shared_step(is_due)
            return
        if not (is_due or now - self._copied_at > COPY_S) or not self._trainer.is_sound():
            return
        self._copy, self._copied_at = (self._trainer.snapshot(), self._trainer.step), now
        if is_due:
            self._save(*self._copy)

    def _after_shared_step(self, is_due: bool) -> None:
        trainer = self._trainer
        if trainer.position % STEPS_TOGETHER or not trainer.processes.first_says(is_due):
            return
        trainer.gather_losses()
        if trainer.processes.is_first and trainer.is_sound():
            self._save(trainer.state(), trainer.step)

    def after_epoch(self) -> None:
        """Write the state."""
        self._save(self._trainer.state(), self._trainer.step)
        self._copy = None

    def _save(self, state: State, step: int) -> None:
        path = self._checkpoints.save(state, step)
        self._saved_at = time.monotonic()
        self._on_file(path)

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
                self._save(*self._copy)
                log.info("told to end: step %d is kept", self._copy[1])
            raise
