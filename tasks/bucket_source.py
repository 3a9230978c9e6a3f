"""Films that lie in a bucket: a local mirror of an ``s3://bucket/prefix`` source.

A mirror is of one state of the bucket and does not change any more: a run may be hours at work
on it while another one finds films added. Films that both hold are one file on the disk.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cxr_model.data_config import DataConfig
from cxr_model.errors import SourceError
from cxr_model.run_folder import write_json
from tasks.storage import ObjectStore, StoredObject, in_parallel, local_path
from tasks.storage_errors import disk_told_in_one_line
from tasks.storage_location import StoreLocation

_LEDGER = ".objects.json"
"""In the mirror's folder: size and ETag of every object that was fetched whole."""
_LEDGER_INTERVAL = 256
"""Objects after which the ledger is written, so that a killed download repeats few of them."""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """What a source in a bucket held when it was mirrored."""

    uri: str
    num_objects: int
    num_bytes: int
    num_downloaded: int
    """The rest was there already."""


def download_prefix(
    location: StoreLocation, folder: Path, config: DataConfig
) -> tuple[Path, Mirror]:
    """Mirror the objects below ``location``, under their relative keys; returns where they lie.

    That is a folder below ``folder``, of its own for each state of the bucket. An object whose
    size and ETag stand in its ledger is kept, so an interrupted download goes on where it ended;
    one that an earlier mirror holds is linked. Raises ``SourceError`` for an empty prefix or one
    above ``config``'s limits, and ``StorageError`` for a key that leads out of the folder.
    """
    with ObjectStore(location) as store, disk_told_in_one_line(folder):
        objects = [
            stored
            for stored in store.list_objects()
            if not stored.key.endswith("/") and stored.key != _LEDGER  # a slash: folder marker
        ]
        num_bytes = sum(stored.size for stored in objects)
        _check_limits(location.uri(), len(objects), num_bytes, config)
        state = sorted((stored.key, stored.size, stored.etag) for stored in objects)
        root = folder / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
        num_downloaded = _mirror(store, objects, root)
    return root, Mirror(
        uri=location.uri(),
        num_objects=len(objects),
        num_bytes=num_bytes,
        num_downloaded=num_downloaded,
    )


def require_objects(location: StoreLocation) -> None:
    """Raise ``SourceError`` where nothing lies below ``location``; asked before a run begins."""
    with ObjectStore(location) as store:
        if store.is_empty():
            raise _nothing_below(location.uri())


def _nothing_below(uri: str) -> SourceError:
    return SourceError(f"{uri}: no object lies below it; check the bucket and the prefix")


def _check_limits(uri: str, num_objects: int, num_bytes: int, config: DataConfig) -> None:
    if num_objects == 0:
        raise _nothing_below(uri)
    if num_objects > config.max_extracted_files:
        raise SourceError(
            f"{uri}: {num_objects} objects; name a narrower prefix or raise "
            f"data.max_extracted_files ({config.max_extracted_files})"
        )
    if num_bytes > config.max_extracted_gb * 1e9:
        raise SourceError(
            f"{uri}: {num_bytes / 1e9:.1f} GB; name a narrower prefix or raise "
            f"data.max_extracted_gb ({config.max_extracted_gb:g})"
        )


def _mirror(store: ObjectStore, objects: list[StoredObject], folder: Path) -> int:
    paths = {stored.key: local_path(folder, stored.key) for stored in objects}
    ledger = {key: value for key, value in _read_ledger(folder).items() if key in paths}
    # Not by the ledger: a killed download leaves files that it does not name.
    kept = {folder / _LEDGER, *paths.values()}
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in kept]:
        path.unlink()

    def is_there(stored: StoredObject) -> bool:
        path = paths[stored.key]
        recorded = ledger.get(stored.key) == [stored.size, stored.etag]
        return recorded and path.is_file() and path.stat().st_size == stored.size

    def fetch(stored: StoredObject) -> StoredObject:
        store.download_file(stored.key, paths[stored.key], size=stored.size)
        return stored

    missing = [stored for stored in objects if not is_there(stored)]
    if missing:
        linked = _link(missing, folder)
        ledger |= {stored.key: [stored.size, stored.etag] for stored in linked}
        missing = [stored for stored in missing if stored not in linked]
    try:
        for number, stored in enumerate(in_parallel(fetch, missing), start=1):
            ledger[stored.key] = [stored.size, stored.etag]
            if number % _LEDGER_INTERVAL == 0:
                _write_ledger(folder, ledger)
    finally:
        _write_ledger(folder, ledger)
    return len(missing)


def _link(missing: list[StoredObject], folder: Path) -> set[StoredObject]:
    """Those that an earlier mirror beside ``folder`` holds, linked to from there."""
    linked = set()
    for earlier in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        ledger = _read_ledger(earlier) if earlier != folder else {}
        for stored in missing:
            if ledger.get(stored.key) != [stored.size, stored.etag] or stored in linked:
                continue
            path, theirs = (local_path(root, stored.key) for root in (folder, earlier))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with suppress(OSError):  # gone, or on a disk without links: it is downloaded then
                if theirs.stat().st_size == stored.size:
                    os.link(theirs, path)
                    linked.add(stored)
    return linked


def _read_ledger(folder: Path) -> dict[str, list[int | str]]:
    path = folder / _LEDGER
    ledger: dict[str, list[int | str]] = json.loads(path.read_text()) if path.exists() else {}
    return ledger


def _write_ledger(folder: Path, ledger: dict[str, list[int | str]]) -> None:
    write_json(folder / _LEDGER, ledger)
