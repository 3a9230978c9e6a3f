"""What may be removed: old runs, checkpoints and caches, never what a model came from."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from filelock import FileLock, Timeout
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from cxr_model.config_checks import STRICT, Bounds, check_bounds
from cxr_model.run_folder import remove_at_once
from tasks.artifacts import show
from tasks.registry import registered_runs
from tasks.results_cache import RESULTS
from tasks.retries import storage_task
from tasks.run_store import remove_runs, stored_runs
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation

_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How much of each kind is kept: what is beyond any of the three goes, the oldest first."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    max_runs: Annotated[int, Bounds(least=1)] = 50
    """Published runs, and as many run folders on the worker."""
    max_age_days: Annotated[float, Bounds(above=0)] = 180.0
    """Days since the last change, of published runs and results; or use, of run folders, caches
    and films."""
    max_checkpoint_days: Annotated[float, Bounds(above=0)] = 14.0
    """Days since the last change, of checkpoints of runs that never ended."""
    max_gb: Annotated[float, Bounds(above=0)] = 200.0
    """Of each kind."""

    def __post_init__(self) -> None:
        check_bounds(self, "retention")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A thing that could be removed."""

    kind: str
    name: str
    modified: float
    """Seconds since the epoch."""
    num_bytes: int
    is_protected: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_count: int | None
    max_age_days: float
    max_gb: float


def beyond(items: list[Item], limits: Limits, now: float) -> list[Item]:
    """Those to remove: walking from the newest, what a limit is passed with, and all after it.

    What is protected, and what changed within a day, stays but counts.
    """
    removed: list[Item] = []
    num_kept, bytes_kept = 0, 0
    for item in sorted(items, key=lambda item: (-item.modified, item.name)):
        age_days = (now - item.modified) / _DAY_S
        is_beyond = (
            bool(removed)
            or (limits.max_count is not None and num_kept >= limits.max_count)
            or age_days > limits.max_age_days
            or bytes_kept + item.num_bytes > limits.max_gb * 1e9
        )
        if is_beyond and not item.is_protected and age_days > 1:
            removed.append(item)
        else:
            num_kept += 1
            bytes_kept += item.num_bytes
    return removed


@storage_task()
def sweep_bucket(location: StoreLocation, retention: Retention, *, dry_run: bool) -> list[Item]:
    """Remove old runs, checkpoints and cached results from the bucket, or only list them."""
    removed: list[Item] = []
    with ObjectStore(location) as store:
        protected = registered_runs(store)
        runs = [
            _in_bucket(store, "run", f"runs/{run_id}/", run_id, run_id in protected)
            for run_id in stored_runs(store)
        ]
        limits = Limits(
            max_count=retention.max_runs,
            max_age_days=retention.max_age_days,
            max_gb=retention.max_gb,
        )
        removed += beyond(runs, limits, time.time())
        if removed and not dry_run:
            remove_runs(store, [item.name for item in removed])
        checkpoints = [
            _in_bucket(store, "checkpoint", f"checkpoints/{run_id}/", run_id, False)
            for run_id in store.list_folders("checkpoints/")
        ]
        results = [
            Item(
                kind="result",
                name=each.key.removeprefix(RESULTS),
                modified=each.modified,
                num_bytes=each.size,
            )
            for each in store.list_objects(RESULTS)
        ]
        for items, days, prefix in (
            (checkpoints, retention.max_checkpoint_days, "checkpoints/{}/"),
            (results, retention.max_age_days, f"{RESULTS}{{}}"),
        ):
            limits = Limits(max_count=None, max_age_days=days, max_gb=retention.max_gb)
            for item in beyond(items, limits, time.time()):
                removed.append(item)
                if not dry_run:
                    for stored in store.list_objects(prefix.format(item.name)):
                        store.delete(stored.key)
    return removed


@task(cache_policy=NO_CACHE)
def sweep_disk(
    folders: dict[str, tuple[Path, str]],
    ingest_lock: Path,
    location: StoreLocation,
    retention: Retention,
    *,
    dry_run: bool,
) -> list[Item]:
    """Likewise on the worker: of each kind the folders below one that match a pattern.

    A run folder that a process works in stays, and all that was used since its age was taken:
    ``ingest_lock`` is held by whoever is given films.
    """
    with ObjectStore(location) as store:
        protected = registered_runs(store)
    removed = []
    for kind, (folder, pattern) in folders.items():
        items = [
            _on_disk(kind, path, str(path.relative_to(folder)), path.name in protected)
            # Hidden ones too: what an unpacking or a removal that was killed has left.
            for path in sorted(folder.glob(pattern))
            if path.is_dir() and not path.is_symlink()
        ]
        limits = Limits(
            max_count=retention.max_runs if kind == "run folder" else None,
            max_age_days=retention.max_age_days,
            max_gb=retention.max_gb,
        )
        for item in beyond(items, limits, time.time()):
            path, is_run = folder / item.name, kind == "run folder"
            lock = path.parent / f".{path.name}.lock" if is_run else ingest_lock
            if dry_run or _remove(path, item.modified, lock, is_own=is_run):
                removed.append(item)
    return removed


@task(cache_policy=NO_CACHE)
def tell_sweep(removed: list[Item], *, dry_run: bool) -> None:
    """What was, or would be, removed: a table artifact and a line."""
    rows = [
        {
            "kind": item.kind,
            "name": item.name,
            "days old": round((time.time() - item.modified) / _DAY_S, 1),
            "MB": round(item.num_bytes / 1e6, 1),
        }
        for item in removed
    ]
    verb = "would be removed (dry run)" if dry_run else "removed"
    show(create_table_artifact, rows, key="housekeeping", description=f"{len(rows)} {verb}")
    get_run_logger().info(
        "%d %s, %.1f MB", len(rows), verb, sum(item.num_bytes for item in removed) / 1e6
    )


def _in_bucket(store: ObjectStore, kind: str, prefix: str, name: str, is_protected: bool) -> Item:
    objects = store.list_objects(prefix)
    return Item(
        kind=kind,
        name=name,
        modified=max((each.modified for each in objects), default=0.0),
        num_bytes=sum(each.size for each in objects),
        is_protected=is_protected,
    )


def _on_disk(kind: str, path: Path, name: str, is_protected: bool) -> Item:
    statuses = [path.stat()]  # its time is that of the last use
    for folder, folders, files in os.walk(path):  # passes over folders that vanish meanwhile
        for entry in (*folders, *files):
            with suppress(FileNotFoundError):  # a run in progress renames its temporary files
                statuses.append(Path(folder, entry).lstat())
    return Item(
        kind=kind,
        name=name,
        modified=max(status.st_mtime for status in statuses),
        num_bytes=sum(status.st_size for status in statuses),
        is_protected=is_protected,
    )


def _remove(path: Path, modified: float, lock: Path, *, is_own: bool) -> bool:
    """Whether the folder was free to go; ``is_own``: its lock is nobody else's and goes too."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            if path.stat().st_mtime > modified:
                return False
            remove_at_once(path)
            if is_own:
                # While it is held: whoever opened it before finds it gone, and makes a new one.
                lock.unlink()
    except (Timeout, FileNotFoundError):
        return False
    return True
