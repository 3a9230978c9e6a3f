"""Prefect tasks of the cross-validation; the work is `cxr_model.crossval`."""

from pathlib import Path
from typing import Any

import torch
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.crossval import check_begun_folds, drop_folds_of_other_films, run_fold
from cxr_model.folds import CrossvalConfig, Fold, fold_splits
from cxr_model.index import read_index
from cxr_model.run_folder import RunFolder
from cxr_model.splits import write_splits
from cxr_model.trainer import EpochRecord
from tasks.artifacts import show
from tasks.results_cache import cached
from tasks.storage_location import StoreLocation


@task(cache_policy=NO_CACHE, task_run_name="fold-{fold.name}")
def train_fold(
    location: StoreLocation,
    root: Path,
    fold: Fold,
    config: RunConfig,
    crossval: CrossvalConfig,
    cache_folder: Path,
    num_threads: int | None,
) -> None:
    """Deal the films out, train on a fold's and predict its holdout, below ``root``.

    What is done is kept: a second call goes on where the first was stopped, and a fold of the
    same films and settings that is in the results cache is fetched. ``num_threads`` is for
    folds that share a machine's cores.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    logger = get_run_logger()

    def tell(record: EpochRecord) -> None:
        logger.info(
            "fold %s: epoch %d/%d  loss %.3f  %.0f films/s  %.0f s",
            fold.name,
            record.epoch,
            config.training.epochs,
            record.train_loss,
            record.films_per_second,
            record.seconds,
        )

    run, cache = RunFolder(root), FilmCache.open(cache_folder)
    folder = run.fold(fold.name)

    def work() -> None:
        run_fold(run, fold, config, crossval, cache, tell)

    if folder.metrics.exists():
        work()  # which looks whether it is of these films
    else:
        # Not the plan: the same fold is part of one with more repeats.
        write_splits(fold_splits(read_index(run.index), fold, crossval), folder.splits)
        inputs = [run.index, folder.splits]
        cached(location, folder, f"fold-{fold.name}", config, inputs, work)


@task(cache_policy=NO_CACHE)
def settle_begun_folds(root: Path, crossval: CrossvalConfig, *, drop: bool) -> None:
    """Of a run that goes on and whose source may have got films since, and so all folds.

    Raises ``ConfigError`` then, before hours of work; with ``drop`` the folds begin anew.
    """
    if not drop:
        check_begun_folds(RunFolder(root), crossval)
    elif drop_folds_of_other_films(RunFolder(root), crossval):
        get_run_logger().warning(
            "the films are others than when the run began, training all folds anew"
        )


@task(cache_policy=NO_CACHE)
def write_crossval_report(
    root: Path, run_id: str, config: RunConfig, crossval: CrossvalConfig, source: str
) -> dict[str, Any]:
    """Join the folds to tables, figures and a page; returns the headline for lists of runs."""
    # matplotlib loads for a second, in the process of every fold.
    from cxr_model.reports.crossval_report import (
        crossval_headline,
        summary_markdown,
        write_crossval,
    )

    record = write_crossval(RunFolder(root), run_id, config, crossval, source=source)
    show(create_markdown_artifact, summary_markdown(record), key="crossval")
    return crossval_headline(record)
