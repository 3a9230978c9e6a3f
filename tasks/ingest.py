"""The Prefect task that turns ``data.source`` into a folder of films on this machine."""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from prefect import task
from prefect.cache_policies import NO_CACHE

from cxr_model.archive import extract_zip
from cxr_model.config import RunConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.phantoms.phantom import DRAWING_VERSION, write_phantoms
from cxr_model.run_folder import sha256_file
from tasks.bucket_source import download_prefix
from tasks.kaggle_source import KaggleSource, download_dataset
from tasks.retries import on_transient_io
from tasks.sources import BucketSource, FolderSource, PhantomSource, ZipSource, parse_source
from tasks.stage_clock import working
from tasks.storage_location import StoreLocation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestedData:
    root: Path
    """Folder of the films, for reading only."""
    source: str
    """``data.source``, with the count or version that it stood for."""
    provenance: dict[str, Any]
    """``kind``, and what else tells these films from others; plain JSON values."""


@task(
    cache_policy=NO_CACHE,  # the product is files: each kind of source finds its own again
    retries=2,
    retry_delay_seconds=[30, 300],
    retry_condition_fn=on_transient_io,  # what Kaggle asks to wait, its own client waits
)
def ingest(config: RunConfig, data_dir: Path, store: StoreLocation) -> IngestedData:
    """Bring the films of ``config.data.source`` below ``data_dir``, or find them there.

    A folder is used in place. ``store`` tells server and credentials of an ``s3://`` source.
    Raises ``SourceError`` or ``StorageError``; what is left behind then is never taken for
    complete.
    """
    source = parse_source(config.data.source)
    if isinstance(source, FolderSource):
        logger.info("%s: used in place", source.path)
        # By its name alone: where it lies is this machine's business, not the report's.
        provenance = {"kind": "folder", "name": source.path.name}
        return IngestedData(source.path, source.path.name, provenance)
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / "ingest.lock"), working():  # two runs may want the same films at once
        match source:
            case PhantomSource():
                found = _draw_phantoms(source.config(config.phantom), data_dir / "phantom")
            case KaggleSource():
                found = _download_from_kaggle(source, data_dir / "kaggle", config.data)
            case ZipSource():
                found = _unpack(source.path, data_dir / "zip", config.data)
            case BucketSource():
                found = _mirror_bucket(store.at(source.uri), data_dir / "s3", config.data)
        os.utime(found.root)  # housekeeping takes what was not used for long
        return found


def _draw_phantoms(config: PhantomConfig, folder: Path) -> IngestedData:
    drawing = {"drawing_version": DRAWING_VERSION, **asdict(config)}
    root = folder / _digest(drawing)
    verb = "reused" if root.exists() else "drawn"
    write_phantoms(root, config)
    source = f"phantom:{config.num_films}"
    logger.info("%s: %s", source, verb)
    return IngestedData(root, source, {"kind": "phantom", **drawing})


def _download_from_kaggle(source: KaggleSource, folder: Path, config: DataConfig) -> IngestedData:
    root, provenance = download_dataset(source, folder, **_limits(config))
    pinned = KaggleSource(source.owner, source.slug, provenance["version"])
    return IngestedData(root, str(pinned), provenance)


def _unpack(archive: Path, folder: Path, config: DataConfig) -> IngestedData:
    sha256 = sha256_file(archive)
    root = folder / sha256[:16] / "films"
    if root.is_dir():
        logger.info("%s: reused", archive)
    else:
        num_files = extract_zip(archive, root, **_limits(config))
        logger.info("%s: unpacked, %d files", archive, num_files)
    provenance = {"kind": "zip", "name": archive.name, "sha256": sha256}
    return IngestedData(root, archive.name, provenance)


def _mirror_bucket(location: StoreLocation, folder: Path, config: DataConfig) -> IngestedData:
    source = folder / _digest([location.endpoint_url, location.uri()])
    root, mirror = download_prefix(location, source, config)
    num_reused = mirror.num_objects - mirror.num_downloaded
    logger.info("%s: %d downloaded, %d reused", mirror.uri, mirror.num_downloaded, num_reused)
    provenance = {"kind": "s3", "endpoint_url": location.endpoint_url, **asdict(mirror)}
    return IngestedData(root, mirror.uri, provenance)


def _limits(config: DataConfig) -> dict[str, int]:
    return {
        "max_bytes": int(config.max_extracted_gb * 1e9),
        "max_files": config.max_extracted_files,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
