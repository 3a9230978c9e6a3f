"""Published runs in object storage: write, list and fetch them.

``runs/<run_id>/`` holds the files of the run folder under their relative paths.
``MANIFEST.json`` names them all with size and SHA-256 and is written last: a run without it
does not exist for readers, so an interrupted publication shows nothing half.
"""

import logging
import os
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cxr_model.errors import StorageError
from cxr_model.intervals import format_estimate
from cxr_model.run_folder import RunFolder, sha256_file
from tasks.manifest import LATEST, Manifest, ManifestError, ObjectRecord, check_run_id, is_run_id
from tasks.storage import ObjectStore, in_parallel, local_path
from tasks.storage_errors import ChangedObjectError, MissingObjectError, disk_told_in_one_line

_MANIFEST = "MANIFEST.json"
_INDEX = "index.html"
_INDEX_TRIES = 5
_REPORT_URL_S = 24 * 3600

log = logging.getLogger(__name__)


def publish_run(
    store: ObjectStore, run: RunFolder, run_id: str, headline: dict[str, Any]
) -> Manifest:
    """Upload the run's files, verified, then its manifest, then the index of all runs.

    May be repeated at any point: what is there with the right bytes is not sent again. A
    different run under the same ``run_id`` is refused before anything is written.
    """
    manifest = Manifest(
        run_id=run_id,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        headline=headline,
        objects=_describe(run),
    )
    published = _find_manifest(store, run_id)
    if published and set(published.objects) != set(manifest.objects):
        raise _taken(store, run_id)
    _upload(store, run, manifest)
    if not published:
        store.write_bytes(_key(run_id, _MANIFEST), manifest.to_json().encode())
    write_index(store)
    return published or manifest


def require_unpublished(store: ObjectStore, run_id: str) -> None:
    """Raise ``StorageError`` if a run of this id is published."""
    check_run_id(run_id)
    if has_manifest(store, run_id):
        raise _taken(store, run_id)


def has_manifest(store: ObjectStore, run_id: str) -> bool:
    """Whether a run of this id is published."""
    return store.exists(_key(run_id, _MANIFEST))


def stored_runs(store: ObjectStore) -> list[str]:
    """Ids of the published runs, and of those whose publication or removal was broken off."""
    return [name for name in store.list_folders("runs/") if is_run_id(name)]


def remove_runs(store: ObjectStore, run_ids: Iterable[str]) -> None:
    """Remove runs, the manifest of each first: from then on it does not exist for readers."""
    try:
        for run_id in run_ids:
            check_run_id(run_id)
            store.delete(_key(run_id, _MANIFEST))
            for stored in store.list_objects(_key(run_id)):
                store.delete(stored.key)
    finally:  # once for all: it reads every manifest
        write_index(store)


def list_runs(store: ObjectStore) -> list[Manifest]:
    """All published runs, newest first; a run whose manifest cannot be read is logged."""

    def read(run_id: str) -> Manifest | None:
        try:
            return _find_manifest(store, run_id)
        except ManifestError as error:
            log.warning("left out of the list of runs: %s", error)
            return None

    found = [manifest for manifest in in_parallel(read, store.list_folders("runs/")) if manifest]
    return sorted(found, key=lambda run: (run.created, run.run_id), reverse=True)


def read_manifest(store: ObjectStore, run_id: str, keys: Collection[str] = ()) -> Manifest:
    """The run's manifest; for ``latest`` that of the newest run that has ``keys``."""
    if run_id != LATEST:
        check_run_id(run_id)
        manifest = _find_manifest(store, run_id)
        if manifest:
            return manifest
    runs = list_runs(store)
    if run_id == LATEST:
        runs = [run for run in runs if set(keys) <= {record.key for record in run.objects}]
    if not runs:
        raise StorageError(f"{store.location.uri()}: no run is published; begin with 'cxr train'")
    if run_id == LATEST:
        return runs[0]
    raise StorageError(
        f"{store.location.uri()}: has no run {run_id}; its newest are "
        + ", ".join(run.run_id for run in runs[:10])
    )


def fetch_run(
    store: ObjectStore, run_id: str, folder: Path, keys: Collection[str] | None = None
) -> Path:
    """Fetch a run's objects (all, or those named) into ``folder/<run_id>``, which is returned.

    ``run_id`` may be ``latest``. Each object is checked against the manifest; a file that is
    there with the right bytes is kept.
    """
    manifest = read_manifest(store, run_id, keys or ())
    target = folder / manifest.run_id
    names = [record.key for record in manifest.objects] if keys is None else keys

    def fetch(key: str) -> None:
        fetch_object(store, manifest, key, local_path(target, key))

    for _ in in_parallel(fetch, names):
        pass
    if target.is_dir():
        os.utime(target)  # housekeeping takes what was not used for long
    return target


def fetch_object(store: ObjectStore, manifest: Manifest, key: str, path: Path) -> None:
    """Fetch one object of a run to ``path``, checked against the manifest."""
    record = manifest.record(key)
    with disk_told_in_one_line(path):
        if path.is_file() and sha256_file(path) == record.sha256:
            return
    store.download_file(_key(manifest.run_id, key), path, sha256=record.sha256, size=record.size)


def report_url(store: ObjectStore, run_id: str) -> str:
    """An address of the run's report that needs no credentials, for a day."""
    return store.presign(_key(run_id, "report.html"), _REPORT_URL_S)


def render_index(runs: list[Manifest]) -> str:
    """The page that lists ``runs``, with links relative to itself."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    templates.filters["estimate"] = format_estimate
    return templates.get_template("runs_index.html.j2").render(runs=runs)


def _key(run_id: str, key: str = "") -> str:
    return f"runs/{run_id}/{key}"


def _taken(store: ObjectStore, run_id: str) -> StorageError:
    return StorageError(
        f"{store.location.uri(_key(run_id))}: run {run_id} is published already; choose another "
        "--run-id"
    )


def _describe(run: RunFolder) -> tuple[ObjectRecord, ...]:
    records = []
    for path in sorted(run.root.rglob("*")):
        relative = path.relative_to(run.root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or relative.as_posix() == _MANIFEST or path.is_symlink() or not path.is_file():
            continue
        records.append(
            ObjectRecord(
                key=relative.as_posix(), size=path.stat().st_size, sha256=sha256_file(path)
            )
        )
    if not records:
        raise StorageError(f"{run.root}: holds no file to publish; run the training first")
    return tuple(records)


def _upload(store: ObjectStore, run: RunFolder, manifest: Manifest) -> None:
    stored = {entry.key: entry.size for entry in store.list_objects(_key(manifest.run_id))}

    def upload(record: ObjectRecord) -> None:
        key = _key(manifest.run_id, record.key)
        if stored.get(key) != record.size or store.sha256(key) != record.sha256:
            store.upload_file(run.root / record.key, key, sha256=record.sha256)

    for _ in in_parallel(upload, manifest.objects):
        pass


def write_index(store: ObjectStore) -> None:
    """Write the page of all runs, again as long as others publish meanwhile.

    Of several publishers the last to write lists the runs once more and finds what it missed.
    """
    for _ in range(_INDEX_TRIES):
        runs = list_runs(store)
        try:
            store.write_bytes(_INDEX, render_index(runs).encode())
        except ChangedObjectError:  # another publisher wrote it before it was read back
            continue
        if list_runs(store) == runs:
            return
    log.warning(
        "%s: may lack a run, others are being published; the next publication completes it",
        store.location.uri(_INDEX),
    )


def _find_manifest(store: ObjectStore, run_id: str) -> Manifest | None:
    key = _key(run_id, _MANIFEST)
    try:
        text = store.read_bytes(key)
    except MissingObjectError:
        return None
    manifest = Manifest.from_json(text, origin=store.location.uri(key))
    if manifest.run_id != run_id:
        raise ManifestError(
            f"{store.location.uri(key)}: names run {manifest.run_id!r}; a run cannot be renamed "
            "in the bucket, publish it again"
        )
    return manifest
