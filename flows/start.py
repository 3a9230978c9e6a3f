"""What every flow does first: a log that tells users' mistakes plainly, and a run folder."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from cxr_model.config import RunConfig
from cxr_model.errors import ConfigError, CxrError
from cxr_model.run_folder import RunFolder, write_json


def _without_users_traceback(record: logging.LogRecord) -> bool:
    """A ``CxrError`` is the user's to mend: its line tells all, a traceback hides it."""
    if record.exc_info and isinstance(record.exc_info[1], CxrError):
        record.exc_info = None
    return True


def set_up_logging() -> None:
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_users_traceback)
    # Prefect forwards these (PREFECT_LOGGING_EXTRA_LOGGERS) but leaves their level.
    for name in ("cxr_model", "tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)


@contextmanager
def started_run(
    root: Path, config: RunConfig, *, keep: tuple[str, ...] = ()
) -> Iterator[RunFolder]:
    """A folder of the run with its ``config.json``; empty but for the entries to ``keep``.

    It is this flow's alone for the block. Raises ``ConfigError`` where another process works
    in it, and where a train flow would go on in the folder of a cross-validation.
    """
    run = RunFolder(root)
    if keep and run.crossval_config.exists() and run.folds.name not in keep:
        raise ConfigError(
            f"run {root.name}: is a cross-validation; use 'cxr crossval --resume {root.name}'"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root.parent / f".{root.name}.lock", timeout=0):
            for entry in root.iterdir() if root.exists() else ():
                if entry.name in keep:
                    continue
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            write_json(run.config, asdict(config))
            yield run
    except Timeout as error:
        raise ConfigError(
            f"run {root.name}: another process works on it; wait for it, or end it first"
        ) from error
