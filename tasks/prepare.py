"""Prefect tasks from films to splits and cache; the work is `cxr_model.index`, `splits`, `cache`.

Their products are files that each library call makes whole or not at all, and makes again
from the same input to the same bytes: nothing is kept in Prefect's result cache.
"""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from cxr_model.cache import build_cache
from cxr_model.config import RunConfig
from cxr_model.folds import CrossvalConfig, fold_splits, plan_folds
from cxr_model.index import build_index, patient_summary, read_index, unreadable_films, write_index
from cxr_model.run_folder import RunFolder
from cxr_model.splits import assign_splits, check_disjoint, write_splits
from tasks.progress import tell_films
from tasks.stage_clock import working


@task(cache_policy=NO_CACHE)
def index_films(run_root: Path, config: RunConfig, root: Path, *, every_class: bool = True) -> None:
    """One row a film, in the run's ``data/index.csv``; ``every_class`` as in `build_index`."""
    logger = get_run_logger()
    with tell_films("indexing", "films indexed") as tell, working():
        run = RunFolder(run_root)
        index = build_index(
            root,
            config.data,
            config.labels,
            near_duplicates=config.hygiene.near_duplicates,
            every_class=every_class,
            thumbnails=run.thumbnails,
            progress=tell,
        )
        write_index(index, run.index)
    for film in unreadable_films(index):
        logger.warning("set aside, cannot be decoded: %s (%s)", film["path"], film["error"])
    patients = patient_summary(index)
    logger.info(
        "%d films, %d patients, of whom %d stand in several classes",
        len(index),
        patients["count"],
        patients["in_several_classes"],
    )


@task(cache_policy=NO_CACHE)
def split_films(run_root: Path, config: RunConfig) -> None:
    """Training, validation and holdout, no group in two; checked before anything is trained."""
    run = RunFolder(run_root)
    with working():
        splits = assign_splits(read_index(run.index), config.split)
        check_disjoint(splits)
        write_splits(splits, run.splits)
    counts = splits["split"].value_counts()
    get_run_logger().info(
        "%d train, %d validation, %d holdout, in %d groups",
        counts["train"],
        counts["validation"],
        counts["holdout"],
        splits["group"].nunique(),
    )


@task(cache_policy=NO_CACHE)
def check_folds(run_root: Path, crossval: CrossvalConfig) -> None:
    """Deal all folds out once, so that too few films are told before anything is trained."""
    index = read_index(RunFolder(run_root).index)
    for fold in plan_folds(crossval):
        splits = fold_splits(index, fold, crossval)
        counts = splits["split"].value_counts()
        get_run_logger().info(
            "fold %s: %s", fold.name, ", ".join(f"{n} {name}" for name, n in counts.items())
        )


@task(cache_policy=NO_CACHE, task_run_name="cache-{config.data.size_px}px")
def build_image_cache(run_root: Path, config: RunConfig, root: Path, cache_dir: Path) -> Path:
    """Decode each film once at the working size; returns the cache's folder."""
    with tell_films("decoding", "films in the cache") as tell, working():
        report = build_cache(
            root,
            read_index(RunFolder(run_root).index),
            cache_dir,
            size_px=config.data.size_px,
            color=config.data.color,
            progress=tell,
        )
    get_run_logger().info(
        "cache %s: %d films decoded, %d reused",
        report.folder.name,
        report.num_written,
        report.num_reused,
    )
    return report.folder
