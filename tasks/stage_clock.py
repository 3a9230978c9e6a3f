"""How long each stage of a flow takes, and how much of that is work.

Work is what the library does. What is left over of a stage is orchestration: Prefect's task
runs and their states, artifacts, log lines, checkpoints, the bucket.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass
class _Stage:
    work_s: float = 0.0
    is_fetched: bool = False


_running: ContextVar[_Stage] = ContextVar("_running")
"""The stage that runs now."""


@dataclass
class StageClock:
    """Wall-clock seconds, measured in the flow around the tasks of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Of the whole stage."""
    work: dict[str, float] = field(default_factory=dict)
    """Of that, what tasks told by `working` and `add_work`."""
    fetched: list[str] = field(default_factory=list)
    """Stages of which something came from the results cache."""
    began: float = field(default_factory=time.time)
    """Since the epoch."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        running = _Stage()
        token = _running.set(running)
        logger.info("stage: %s", stage)
        started = time.perf_counter()
        try:
            yield
        finally:
            _running.reset(token)
        self.seconds[stage] = time.perf_counter() - started
        self.work[stage] = running.work_s
        if running.is_fetched:
            self.fetched.append(stage)

    def rows(self) -> list[dict[str, str | float]]:
        """A table: stage, and its seconds of work and of orchestration."""
        return [
            {
                "stage": stage,
                "work_s": round(self.work[stage], 2),
                "orchestration_s": round(seconds - self.work[stage], 2),
            }
            for stage, seconds in self.seconds.items()
        ]


@contextmanager
def working() -> Iterator[None]:
    """The block is work of the stage that runs now; of none, where no clock does."""
    started = time.perf_counter()
    try:
        yield
    finally:
        add_work(time.perf_counter() - started)


def add_work(seconds: float) -> None:
    """So much of the running stage was work."""
    _running.get(_Stage()).work_s += seconds


def tell_fetched() -> None:
    """What the running stage found was found before, here or elsewhere."""
    _running.get(_Stage()).is_fetched = True
