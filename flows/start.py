"""What every flow does first: a log that tells users' mistakes plainly, and a run folder."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

from cxr_model.config import RunConfig
from cxr_model.errors import CxrError
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


def start_run(root: Path, config: RunConfig, *, keep: tuple[str, ...] = ()) -> RunFolder:
    """A folder of the run with its ``config.json``; empty but for the entries to ``keep``."""
    run = RunFolder(root)
    for entry in root.iterdir() if root.exists() else ():
        if entry.name in keep:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_json(run.config, asdict(config))
    return run
