"""Remove what nobody will look at again; a dry run unless told otherwise."""

from prefect import flow

from flows.settings import Settings
from flows.start import due_name, set_up_logging
from tasks.retention import Retention, sweep_bucket, sweep_disk, tell_sweep


@flow(name="housekeeping", flow_run_name=lambda: due_name("housekeeping"))
def housekeeping(
    retention: Retention = Retention(),  # noqa: B008 (frozen)
    dry_run: bool = True,
) -> list[str]:
    """Old runs, checkpoints and results in the bucket; run folders, caches and films on the worker.

    What a registered model came from always stays. Returns what was, or would be, removed.

    Args:
        retention: How much is kept.
        dry_run: List what would be removed, and remove nothing.
    """
    set_up_logging()
    settings = Settings.from_environment()
    folders = {
        "run folder": (settings.runs_dir, "*"),
        "cache": (settings.cache_dir, "*"),
        "phantoms": (settings.data_dir / "phantom", "*"),
        "Kaggle version": (settings.data_dir / "kaggle", "*/*/*"),
        "mirror of a bucket": (settings.data_dir / "s3", "*/*"),
        "unpacked zip": (settings.data_dir / "zip", "*"),
        "fetched": (settings.fetched_dir, "*"),
    }
    removed = sweep_bucket(settings.store, retention, dry_run=dry_run)
    lock = settings.data_dir / "ingest.lock"
    removed += sweep_disk(folders, lock, settings.store, retention, dry_run=dry_run)
    tell_sweep(removed, dry_run=dry_run)
    return [f"{item.kind} {item.name}" for item in removed]
