"""When a Prefect task is tried again."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from tasks.storage_errors import TransientStorageError


def on_transient_io(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry where object storage is away or busy; a refusal or wrong bytes will not pass.

    Not Kaggle's ``TransientSourceError``: `tasks.kaggle_source` has waited and tried by then,
    for as long as Kaggle asked.
    """
    return isinstance(state.data, TransientStorageError)
