"""What a data source holds now, and what of it was announced and trained on."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.events import emit_event

from cxr_model.config import RunConfig
from cxr_model.labels import visible_files
from cxr_model.run_folder import sha256_file
from tasks.kaggle_source import KaggleSource, newest_version
from tasks.retries import storage_task
from tasks.sources import BucketSource, FolderSource, PhantomSource, ZipSource, parse_source
from tasks.storage import ObjectStore
from tasks.storage_errors import MissingObjectError
from tasks.storage_location import StoreLocation

DATASET_UPDATED = "cxr.dataset.updated"
"""Event of a source that changed; its resource is ``cxr.dataset.<name>``."""
_AGAIN_AFTER = timedelta(hours=23)  # a daily look comes some seconds early or late


@dataclass(frozen=True)
class SourceState:
    """A source at a moment, told by a listing: nothing is downloaded for it."""

    digest: str
    source: str


@storage_task()
def look_at_source(config: RunConfig, store: StoreLocation) -> SourceState:
    """A digest of Kaggle's version, the bucket's listing, the folder's files or the zip's bytes."""
    source = parse_source(config.data.source)
    match source:
        case PhantomSource():
            held: Any = repr(source.config(config.phantom))
        case KaggleSource():
            held = source.version or newest_version(source)
        case FolderSource():
            held = _files(source.path)
        case ZipSource():
            held = sha256_file(source.path)
        case BucketSource():
            with ObjectStore(store.at(source.uri)) as bucket:
                held = [(each.key, each.size, each.etag) for each in bucket.list_objects()]
    told = json.dumps([type(source).__name__, held], sort_keys=True).encode()
    return SourceState(hashlib.sha256(told).hexdigest(), config.data.source)


@storage_task()
def announce_change(location: StoreLocation, name: str, state: SourceState) -> bool:
    """Emit ``cxr.dataset.updated`` for a state neither trained on nor announced since yesterday.

    The event may be lost on its way, or the training that follows it fail: it is emitted again
    every day until one was published.
    """
    logger = get_run_logger()
    with ObjectStore(location) as store:
        if _read(store, _key(name, "trained", state)).get("digest") == state.digest:
            # Else a change that is undone and made again would count as announced.
            store.delete(_key(name, "announced", state))
            logger.info("%s: as when it was last trained on", state.source)
            return False
        last = _read(store, _key(name, "announced", state))
        if last.get("digest") == state.digest:
            age = datetime.now(UTC) - datetime.fromisoformat(last["when"])
            if age < _AGAIN_AFTER:
                logger.info("%s: as when it was announced at %s", state.source, last["when"])
                return False
        event = emit_event(
            event=DATASET_UPDATED,
            resource={"prefect.resource.id": f"cxr.dataset.{name}"},
            payload={"digest": state.digest, "source": state.source},
        )
        if event is None:
            logger.warning("%s: changed, but the event could not be sent", state.source)
            return False
        _write(store, _key(name, "announced", state), state)
    logger.info("%s: changed, %s emitted", state.source, DATASET_UPDATED)
    return True


@storage_task()
def remember_trained(location: StoreLocation, name: str, state: SourceState) -> None:
    """That a published run was trained on the source as it was at ``state``."""
    with ObjectStore(location) as store:
        _write(store, _key(name, "trained", state), state)


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of all visible files, sorted."""
    found = []
    for path in filter(Path.is_file, visible_files(folder)):  # a link may lead nowhere
        status = path.stat()
        found.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(found)


def _key(name: str, kind: str, state: SourceState) -> str:
    """Of the source: two folders may bear one name."""
    mark = hashlib.sha256(state.source.encode()).hexdigest()[:8]
    return f"datasets/{name}-{mark}/{kind}.json"


def _read(store: ObjectStore, key: str) -> dict[str, str]:
    try:
        record: dict[str, str] = json.loads(store.read_bytes(key))
    except MissingObjectError:
        return {}
    return record


def _write(store: ObjectStore, key: str, state: SourceState) -> None:
    record = {
        "digest": state.digest,
        "source": state.source,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store.write_bytes(key, json.dumps(record).encode())
