"""Who trains a cross-validation's folds: processes or threads here, Dask or Ray anywhere."""

import os
from dataclasses import dataclass
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from cxr_model.errors import ConfigError

_REMEDY = "use processes[:N], threads, dask[:ADDRESS] or ray[:ADDRESS]"


@dataclass(frozen=True)
class FoldRunner:
    runner: TaskRunner[Any]
    num_threads: int | None
    """Of torch in each fold, where folds share this machine's cores."""


def fold_runner(text: str, num_folds: int, *, on_gpu: bool) -> FoldRunner:
    """The runner that ``CXR_TASK_RUNNER`` names.

    Without a number there are as many folds at a time as cores, each on one thread: small
    networks gain little from a second. A GPU trains one at a time. Raises ``ConfigError``
    for a name that is none, or whose package is not installed.
    """
    kind, _, detail = text.partition(":")
    cores = os.cpu_count() or 1
    if kind in ("processes", "threads"):
        # Dropout draws from torch's one generator: two folds in one process would mix theirs.
        at_once = 1 if kind == "threads" or on_gpu else min(cores, num_folds)
        if detail:
            at_once = _number(text, detail)
        if kind == "threads" and at_once > 1:
            raise ConfigError(
                f"CXR_TASK_RUNNER={text!r}: threads take one fold at a time; use processes"
            )
        num_threads = max(1, cores // at_once)
        if kind == "threads":
            return FoldRunner(ThreadPoolTaskRunner(max_workers=at_once), num_threads)
        return FoldRunner(ProcessPoolTaskRunner(max_workers=at_once), num_threads)
    try:
        if kind == "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            if detail:
                return FoldRunner(DaskTaskRunner(address=detail), None)
            # Dask kills a worker at its share of this machine's memory, and the mapped films
            # count for each worker that looks at them.
            cluster: dict[str, Any] = {"threads_per_worker": 1, "memory_limit": 0}
            if on_gpu:
                cluster["n_workers"] = 1
            return FoldRunner(DaskTaskRunner(cluster_kwargs=cluster), cores if on_gpu else 1)
        if kind == "ray":
            from prefect_ray.task_runners import RayTaskRunner

            return FoldRunner(RayTaskRunner(address=detail or None), None)
    except ImportError as error:
        raise ConfigError(
            f"CXR_TASK_RUNNER={text!r}: {error.name} is not installed; "
            f"pip install 'cxresnet[{kind}]'"
        ) from error
    raise ConfigError(f"CXR_TASK_RUNNER={text!r}: {_REMEDY}")


def _number(text: str, detail: str) -> int:
    if not detail.isdecimal() or int(detail) < 1:
        raise ConfigError(f"CXR_TASK_RUNNER={text!r}: {_REMEDY}, N from 1 up")
    return int(detail)
