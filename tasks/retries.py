"""When a Prefect task is tried again."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from tasks.storage_errors import TransientStorageError

P = ParamSpec("P")
R = TypeVar("R")


def storage_task(*, task_run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that speaks to object storage: tried again where that is away, never cached.

    Its products are objects, which the function finds again by itself; and the answer of a
    moment ago says nothing of now.
    """
    return task(
        task_run_name=task_run_name,
        cache_policy=NO_CACHE,
        retries=3,
        retry_delay_seconds=[2, 10, 30],
        retry_condition_fn=on_transient_io,
    )


def on_transient_io(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry where object storage is away or busy; a refusal or wrong bytes will not pass.

    Not Kaggle's ``TransientSourceError``: `tasks.kaggle_source` has waited and tried by then,
    for as long as Kaggle asked.
    """
    return isinstance(state.data, TransientStorageError)
