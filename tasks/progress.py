"""How far a task is, told to the log and to a progress bar in the Prefect UI."""

from collections.abc import Callable
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact


class ProgressBar:
    """A progress artifact under ``key``, of which the UI shows the latest."""

    def __init__(self, key: str, description: str) -> None:
        artifact = create_progress_artifact(0.0, key=key, description=description)
        assert isinstance(artifact, UUID)  # a coroutine only when called from async code
        self._artifact = artifact

    def update(self, done: int, total: int) -> None:
        update_progress_artifact(self._artifact, progress=100 * done / max(total, 1))


def tell_films(key: str, description: str) -> Callable[[int, int], None]:
    """A callback for library functions that count films; speaks at every tenth of the way."""
    logger, bar, told = get_run_logger(), ProgressBar(key, description), [0]

    def tell(done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > told[0]:
            told[0] = tenth
            logger.info("%s: %d of %d", description, done, total)
            bar.update(done, total)

    return tell
