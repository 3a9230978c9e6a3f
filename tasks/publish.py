"""Prefect tasks that write to object storage; the work is `tasks.storage` and `run_store`."""

import shutil
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from cxr_model.config import RunConfig
from cxr_model.config_json import config_of
from cxr_model.run_folder import RunFolder
from cxr_model.stages import require_same_settings, settings_of_the_training
from tasks.checkpoint_store import (
    drop_checkpoints,
    fetch_checkpoint,
    read_run_settings,
    require_unbegun,
)
from tasks.registry import VERSION_FILES
from tasks.retries import storage_task
from tasks.run_store import (
    fetch_run,
    has_manifest,
    publish_run,
    read_manifest,
    report_url,
    require_unpublished,
    write_index,
)
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation


@storage_task()
def check_store(location: StoreLocation, run_id: str, new: Path | None = None) -> None:
    """Find out before hours of training whether the run can be published under its id.

    ``new`` is the folder of one that begins, and may lose no other one's checkpoints.
    """
    with ObjectStore(location) as store:
        store.check()
        require_unpublished(store, run_id)
        if new is not None:
            require_unbegun(store, RunFolder(new), run_id)


@storage_task()
def check_begun(location: StoreLocation, run_root: Path, run_id: str, config: RunConfig) -> None:
    """Raise ``ConfigError`` where ``config`` would train on other films, or other weights, than
    the run began with.

    Asked before the run's ``config.json`` is written anew, which leads back to its checkpoints.
    """
    with ObjectStore(location) as store:
        begun = config_of(read_run_settings(store, RunFolder(run_root), run_id), f"run {run_id}")
    require_same_settings(run_id, settings_of_the_training(begun), settings_of_the_training(config))


@storage_task()
def settle_if_published(location: StoreLocation, run_root: Path, run_id: str) -> bool:
    """Whether a run that is started anew crashed behind its publication; it is settled then."""
    with ObjectStore(location) as store:
        if is_published := has_manifest(store, run_id):
            write_index(store)  # what follows the manifest may be missing
            _forget_served(store, run_root, run_id)
    return is_published


def _forget_served(store: ObjectStore, run_root: Path, run_id: str) -> None:
    """Checkpoints of a published run, in the bucket and here."""
    drop_checkpoints(store, run_id)
    for folder in run_root.rglob(".checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)


@storage_task()
def fetch_if_published(location: StoreLocation, runs_dir: Path, run_id: str) -> bool:
    """Whether the run is published; what competes for champion is then below ``runs_dir``.

    A run that crashed after its publication may go on on another machine, and its gates are
    asked there: all its evidence comes along.
    """
    with ObjectStore(location) as store:
        if not has_manifest(store, run_id):
            return False
        published = read_manifest(store, run_id).objects
        evidence = [record.key for record in published if record.key.startswith("evidence/")]
        fetch_run(store, run_id, runs_dir, (*VERSION_FILES, *evidence))
        write_index(store)  # what follows the manifest may be missing
        _forget_served(store, runs_dir / run_id, run_id)
    return True


@storage_task(task_run_name="publish-{run_id}")
def publish(location: StoreLocation, run_root: Path, run_id: str, headline: dict[str, Any]) -> str:
    """Publish the run folder, manifest last; returns an address of the report, valid for a day.

    The training's checkpoints have served then and are deleted.
    """
    with ObjectStore(location) as store:
        manifest = publish_run(store, RunFolder(run_root), run_id, headline)
        url = report_url(store, run_id)
        _forget_served(store, run_root, run_id)
    get_run_logger().info(
        "%d objects, %.1f MB, below %s",
        len(manifest.objects),
        sum(record.size for record in manifest.objects) / 1e6,
        location.uri(f"runs/{run_id}/"),
    )
    return url


@storage_task()
def find_checkpoint(location: StoreLocation, run_root: Path, run_id: str) -> None:
    """See that an interrupted run's newest checkpoint is here, from the bucket if need be."""
    run, logger = RunFolder(run_root), get_run_logger()
    with ObjectStore(location) as store:
        fetch_checkpoint(store, run, run_id)
    files = sorted(run.checkpoints.glob("*.pt"))
    logger.info("resuming from %s", files[-1].name if files else "the start: no checkpoint yet")


@storage_task()
def forget_checkpoints(location: StoreLocation, run_id: str) -> None:
    """Those of an earlier run of this id that was never published."""
    with ObjectStore(location) as store:
        drop_checkpoints(store, run_id)
