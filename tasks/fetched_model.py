"""Prefect tasks that bring a trained network from the bucket to this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from cxr_model.run_folder import read_json
from tasks.named_model import find_model
from tasks.registry import VERSION_FILES, fetch_version, find_version
from tasks.retries import storage_task
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation


@dataclass(frozen=True)
class FetchedModel:
    root: Path
    """Folder of its files."""
    settings: dict[str, Any]
    """Those of its run."""


@storage_task()
def fetch_registered(
    location: StoreLocation, model: str, version: str, folder: Path
) -> FetchedModel:
    """A version of the registry below ``folder``; the champion, and the only model, by default."""
    with ObjectStore(location) as store:
        found = find_version(store, model, version)
        run = fetch_version(store, found.model, found.run_id, folder / "models", VERSION_FILES)
    get_run_logger().info("model %s, version %s", found.model, found.run_id)
    return FetchedModel(run.root, read_json(run.config))


@storage_task()
def fetch_trained(location: StoreLocation, name: str, folder: Path) -> FetchedModel:
    """A model by name (`find_model`), published runs that nobody registered among them."""
    with ObjectStore(location) as store:
        run = find_model(store, name, folder, VERSION_FILES).fetch()
    get_run_logger().info("network of run %s", run.root.name)
    return FetchedModel(run.root, read_json(run.config))
