"""Prefect tasks that measure and explain; the work is `cxr_model.stages` and `gallery`."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.gallery import explain
from cxr_model.metrics import format_estimate
from cxr_model.run_folder import RunFolder
from cxr_model.stages import evaluate
from tasks.progress import tell_films


@task(cache_policy=NO_CACHE)
def evaluate_holdout(run_root: Path, config: RunConfig, cache_folder: Path) -> dict[str, Any]:
    """Predict validation and holdout; returns the holdout's figures."""
    holdout = evaluate(RunFolder(run_root), config, FilmCache.open(cache_folder))
    get_run_logger().info(
        "holdout of %d films: accuracy %s, balanced accuracy %s",
        holdout["n"],
        format_estimate(holdout["accuracy"]),
        format_estimate(holdout["balanced_accuracy"]),
    )
    return holdout


@task(cache_policy=NO_CACHE)
def explain_holdout(
    run_root: Path, config: RunConfig, cache_folder: Path, root: Path
) -> dict[str, Any]:
    """Write heat maps of chosen holdout films; returns the figures on them."""
    cache = FilmCache.open(cache_folder)
    tell = tell_films("explaining", "films explained")
    figures = explain(RunFolder(run_root), config, cache, root, tell)
    for name, estimate in figures.items():
        get_run_logger().info("%s: %s", name, format_estimate(estimate))
    return figures
