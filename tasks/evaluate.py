"""Prefect tasks that measure and explain; the work is `cxr_model.stages` and `gallery`."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.index import read_index
from cxr_model.intervals import format_estimate
from cxr_model.run_folder import RunFolder
from cxr_model.stages import evaluate
from cxr_model.summary import headline
from tasks.progress import tell_films
from tasks.results_cache import cached
from tasks.stage_clock import working
from tasks.storage_location import StoreLocation


@task(cache_policy=NO_CACHE)
def evaluate_holdout(run_root: Path, config: RunConfig, cache_folder: Path) -> dict[str, Any]:
    """Predict validation and holdout; returns the holdout's figures."""
    with working():
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
    location: StoreLocation, run_root: Path, config: RunConfig, cache_folder: Path, root: Path
) -> dict[str, Any]:
    """Write heat maps of chosen holdout films; returns the figures on them."""
    run, cache = RunFolder(run_root), FilmCache.open(cache_folder)

    def work() -> dict[str, Any]:
        # Captum, SciPy and matplotlib load for seconds, which a training need not wait for.
        from cxr_model.explanations.gallery import explain

        with tell_films("explaining", "films explained") as tell, working():
            return explain(run, config, cache, root, tell)

    masks = read_index(run.index)["mask"]
    read = [run.index, run.splits, run.weights, run.predictions]
    read += [root / mask for mask in masks if mask]
    figures = cached(location, run, "explain", config, read, work)
    logger = get_run_logger()
    for name, found in figures.items():
        if name == "methods":
            for method in found.values():
                logger.info("%s", method["verdict"])
        else:
            logger.info("%s: %s", name, format_estimate(found))
    return figures


@task(cache_policy=NO_CACHE)
def evaluate_on(
    run_root: Path, run_id: str, model_root: Path, config: RunConfig, cache: Path, *, source: str
) -> dict[str, Any]:
    """Measure the model on the run's films; returns the headline for lists of runs.

    It names the model (``model.run_id``); that run's own record and report stay as they were.
    """
    from cxr_model.external import evaluate_elsewhere  # matplotlib, as above

    metrics = evaluate_elsewhere(
        RunFolder(run_root),
        run_id,
        RunFolder(model_root),
        config,
        FilmCache.open(cache),
        source=source,
    )
    get_run_logger().info(
        "%d films, %d left out as known, %d of a patient number known: balanced accuracy %s",
        metrics["holdout"]["n"],
        metrics["data"]["num_left_out"],
        metrics["data"]["same_patient_number"],
        format_estimate(metrics["holdout"]["balanced_accuracy"]),
    )
    return headline(metrics) | {"model": metrics["model"]}
