"""Prefect tasks in which a run gathers evidence against itself; the work is `cxr_model`'s.

Each is kept in the results cache, and its function called where that does not have it.
"""

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.gates import check_gates, require_gates
from cxr_model.hygiene.audit import audit_films
from cxr_model.intervals import format_estimate
from cxr_model.reliability.measure import measure_reliability
from cxr_model.reliability.outliers import measure_outliers
from cxr_model.reliability.robustness import measure_robustness
from cxr_model.run_folder import RunFolder
from cxr_model.shortcuts.audit import audit_shortcuts
from tasks.results_cache import cached
from tasks.stage_clock import working
from tasks.storage_location import StoreLocation


@task(cache_policy=NO_CACHE)
def examine_films(
    location: StoreLocation, run_root: Path, config: RunConfig, root: Path
) -> dict[str, Any]:
    """Copies, damage and strangers among the indexed films, and what each class looks like."""
    run = RunFolder(run_root)

    def work() -> dict[str, Any]:
        with working():
            return audit_films(run, config, root)

    found = cached(location, run, "hygiene", config, [run.index], work)
    near = found["near_duplicates"]
    get_run_logger().info(
        "films that have an exact copy: %d, a near one: %s; copies across classes: %d",
        found["exact_duplicates"]["by_bytes"] + found["exact_duplicates"]["by_pixels"],
        near["films"] if near["searched"] else "not looked for",
        found["counts"]["label conflict"],
    )
    return found


@task(cache_policy=NO_CACHE)
def measure_probabilities(location: StoreLocation, run_root: Path, config: RunConfig) -> None:
    """Calibration, operating points and abstention: chosen on validation, told of the holdout."""
    run = RunFolder(run_root)

    def work() -> dict[str, Any]:
        with working():
            return measure_reliability(run, config)

    found = cached(location, run, "reliability", config, [run.splits, run.predictions], work)
    calibration = found["calibration"]
    get_run_logger().info(
        "temperature %.2f; calibration error %s, before %s",
        calibration["temperature"],
        format_estimate(calibration["after"]["ece"]),
        format_estimate(calibration["before"]["ece"]),
    )


@task(cache_policy=NO_CACHE)
def measure_inputs(
    location: StoreLocation, run_root: Path, config: RunConfig, cache_folder: Path
) -> None:
    """What the network makes of damaged films and of what is no radiograph at all."""
    run, cache = RunFolder(run_root), FilmCache.open(cache_folder)

    def work() -> None:
        with working():
            if config.reliability.outliers:
                measure_outliers(run, config, cache)
            if config.reliability.robustness:
                measure_robustness(run, config, cache)

    read = [run.splits, run.weights, run.predictions, run.decision]
    cached(location, run, "inputs", config, read, work)


@task(cache_policy=NO_CACHE)
def probe_shortcuts(
    location: StoreLocation, run_root: Path, config: RunConfig, cache_folder: Path, root: Path
) -> None:
    """How well the classes are told apart without the lungs."""
    run, cache = RunFolder(run_root), FilmCache.open(cache_folder)

    def work() -> dict[str, Any]:
        with working():
            return audit_shortcuts(run, config, cache, root)

    read = [run.index, run.splits, run.weights, run.predictions]
    # A probe that was left out for want of memory may find it on another machine.
    found = cached(
        location, run, "shortcuts", config, read, work, is_whole=lambda found: not found["left_out"]
    )
    tell = get_run_logger().warning if found["alarm"] else get_run_logger().info
    tell("shortcuts: %s", found["verdict"])


@task(cache_policy=NO_CACHE)
def enforce_gates(run_root: Path, config: RunConfig) -> None:
    """Raises ``GateError`` where a gate is red that ``gates.fail_on`` names."""
    require_gates(check_gates(RunFolder(run_root), config))
