"""How far a task is, told to the log and to the Prefect UI, beside the work itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.artifacts import show
from tasks.newest import Newest

Item = TypeVar("Item")

_PAUSE_S = 2.0  # a person reads no faster, and each call costs the server as much as the caller


class ProgressBar:
    """A progress artifact under ``key``, of which the UI shows the latest."""

    def __init__(self, key: str, description: str) -> None:
        self._artifact = show(create_progress_artifact, 0.0, key=key, description=description)

    def update(self, done: int, total: int) -> None:
        if self._artifact:
            update_progress_artifact(self._artifact, progress=100 * done / max(total, 1))


def shown_beside(show: Callable[[Item], None]) -> Newest[Item]:
    """Hands ``show`` the newest item every other second, and the last one in any case.

    ``show`` calls Prefect's API: a server that is slow or away holds no work up. That it was
    away is told once.
    """
    logger, told = get_run_logger(), [False]

    def try_to_show(item: Item) -> None:
        try:
            show(item)
        except httpx.HTTPError as error:
            if not told[0]:
                logger.warning("progress is not shown, the work goes on: %s", error)
            told[0] = True

    return Newest(try_to_show, pause_s=_PAUSE_S)


@contextmanager
def tell_films(key: str, description: str) -> Iterator[Callable[[int, int], None]]:
    """A callback for library functions that count films; speaks at every tenth of the way."""
    logger, bar, told = get_run_logger(), ProgressBar(key, description), [0]

    def show(progress: tuple[int, int]) -> None:
        bar.update(*progress)

    with shown_beside(show) as newest:

        def tell(done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth > told[0]:
                told[0] = tenth
                logger.info("%s: %d of %d", description, done, total)
                newest.put((done, total))

        yield tell
