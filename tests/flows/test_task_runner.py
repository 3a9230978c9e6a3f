import os

import pytest
from distributed import LocalCluster
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from cxr_model.errors import ConfigError
from flows.task_runner import fold_runner


def test_folds_share_the_cores() -> None:
    cores = os.cpu_count() or 1
    chosen = fold_runner("processes", 100, on_gpu=False)
    assert isinstance(chosen.runner, ProcessPoolTaskRunner)
    assert chosen.runner._max_workers == cores
    assert chosen.num_threads == 1
    assert fold_runner("threads:1", 100, on_gpu=False).num_threads == cores


def test_a_gpu_trains_one_fold_at_a_time_unless_told_otherwise() -> None:
    chosen = fold_runner("processes", 10, on_gpu=True)
    assert isinstance(chosen.runner, ProcessPoolTaskRunner)
    assert chosen.runner._max_workers == 1
    told = fold_runner("processes:3", 10, on_gpu=True).runner
    assert isinstance(told, ProcessPoolTaskRunner)
    assert told._max_workers == 3


@pytest.mark.parametrize("on_gpu", [True, False])
def test_dask_on_this_machine_kills_no_worker_and_trains_one_fold_at_a_time_on_a_gpu(
    on_gpu: bool,
) -> None:
    cores = os.cpu_count() or 1
    chosen = fold_runner("dask", 10, on_gpu=on_gpu)
    assert isinstance(chosen.runner, DaskTaskRunner)
    with LocalCluster(
        **chosen.runner.cluster_kwargs, processes=False, dashboard_address=None
    ) as cluster:
        limits = {worker.memory_manager.memory_limit for worker in cluster.workers.values()}
        threads = [worker.state.nthreads for worker in cluster.workers.values()]
    assert limits == {None}
    assert threads == [1] if on_gpu else set(threads) == {1}
    assert chosen.num_threads == (cores if on_gpu else 1)


def test_threads_take_one_fold_at_a_time() -> None:
    chosen = fold_runner("threads", 10, on_gpu=False).runner
    assert isinstance(chosen, ThreadPoolTaskRunner)
    assert chosen._max_workers == 1
    with pytest.raises(ConfigError, match=r"threads:2.*one fold at a time; use processes"):
        fold_runner("threads:2", 10, on_gpu=False)


@pytest.mark.parametrize("text", ["processes:0", "processes:many", "slurm", ""])
def test_other_names_are_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"CXR_TASK_RUNNER='.*': use processes\[:N\], threads,"):
        fold_runner(text, 10, on_gpu=False)


def test_a_runner_that_is_not_installed_is_told_with_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"prefect_ray is not installed; pip install .*\[ray\]"):
        fold_runner("ray", 10, on_gpu=False)
