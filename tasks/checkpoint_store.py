"""Checkpoints of runs in progress, copied to object storage so that any worker can go on.

``checkpoints/<run_id>/`` holds the run's ``config.json``, the newest state of its training
and, written after it, ``latest.json`` with the state's name and SHA-256.
"""

import json
from pathlib import Path
from typing import Any

from cxr_model.errors import StorageError
from cxr_model.run_folder import RunFolder, sha256_file
from tasks.storage import ObjectStore
from tasks.storage_errors import MissingObjectError


def put_checkpoint(store: ObjectStore, run: RunFolder, run_id: str, path: Path) -> None:
    """Copy ``path``, a checkpoint of ``run``, and drop the one it follows."""
    digest = sha256_file(path)
    store.write_bytes(_key(run_id, "config.json"), run.config.read_bytes())
    store.upload_file(path, _key(run_id, path.name), sha256=digest)
    latest = {"name": path.name, "size": path.stat().st_size, "sha256": digest}
    store.write_bytes(_key(run_id, "latest.json"), json.dumps(latest).encode())
    for entry in store.list_objects(_key(run_id)):
        if entry.key.endswith(".pt") and entry.key != _key(run_id, path.name):
            store.delete(entry.key)


def fetch_checkpoint(store: ObjectStore, run: RunFolder, run_id: str) -> bool:
    """Fetch the bucket's checkpoint into ``run`` if it is newer; whether it was fetched."""
    try:
        latest = json.loads(store.read_bytes(_key(run_id, "latest.json")))
    except MissingObjectError:
        return False
    if any(path.name >= latest["name"] for path in run.checkpoints.glob("*.pt")):
        return False
    store.download_file(
        _key(run_id, latest["name"]),
        run.checkpoints / Path(latest["name"]).name,
        sha256=latest["sha256"],
        size=latest["size"],
    )
    return True


def read_run_settings(store: ObjectStore, run: RunFolder, run_id: str) -> dict[str, Any]:
    """The settings a run began with: from its folder, or from its copy in the bucket."""
    try:
        text: str | bytes = run.config.read_text()
    except OSError:
        try:
            text = store.read_bytes(_key(run_id, "config.json"))
        except MissingObjectError as error:
            raise StorageError(
                f"run {run_id}: neither {run.root} nor {store.location.uri(_key(run_id))} knows "
                "it; 'cxr train' starts a new one"
            ) from error
    settings: dict[str, Any] = json.loads(text)
    return settings


def drop_checkpoints(store: ObjectStore, run_id: str) -> None:
    """Of a run that is published."""
    for entry in store.list_objects(_key(run_id)):
        store.delete(entry.key)


def _key(run_id: str, name: str = "") -> str:
    return f"checkpoints/{run_id}/{name}"
