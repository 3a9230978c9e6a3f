"""Checkpoints of runs in progress, copied to object storage so that any worker can go on.

``checkpoints/<run_id>/`` holds the run's ``config.json``, the newest state of its training
and, written after it, ``latest.json`` with the state's name and SHA-256.
"""

import json
import os
from dataclasses import dataclass
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path
from typing import Any

from cxr_model.errors import ConfigError, StorageError
from cxr_model.run_folder import RunFolder
from tasks.storage import ObjectStore
from tasks.storage_errors import MissingObjectError


@dataclass
class CheckpointWriter:
    """Copies checkpoints of one run in progress to ``store``, one at a time."""

    store: ObjectStore
    run: RunFolder
    run_id: str
    _states: set[str] | None = None
    """Keys of the states in the bucket, as far as is known; None: not asked yet."""

    def put(self, file: BufferedReader, name: str) -> None:
        """Copy an open checkpoint whose name is ``name``, then drop those it follows.

        Raises ``StorageError``; the copy before it is whole and in place then.
        """
        if self._states is None:
            self.store.write_bytes(self._key("config.json"), self.run.config.read_bytes())
            entries = self.store.list_objects(self._key())
            self._states = {entry.key for entry in entries if entry.key.endswith(".pt")}
        size, digest = os.fstat(file.fileno()).st_size, file_digest(file, "sha256").hexdigest()
        file.seek(0)
        key = self._key(name)
        self._states.add(key)
        self.store.upload(file, key, sha256=digest)
        latest = {"name": name, "size": size, "sha256": digest}
        self.store.write_bytes(self._key("latest.json"), json.dumps(latest).encode())
        for other in sorted(self._states - {key}):
            self.store.delete(other)
            self._states.remove(other)

    def _key(self, name: str = "") -> str:
        return _key(self.run_id, name)


def fetch_checkpoint(store: ObjectStore, run: RunFolder, run_id: str) -> bool:
    """Fetch the bucket's checkpoint into ``run`` where that has none, as new, that can be read;
    whether it was fetched."""
    from cxr_model.checkpoints import is_whole  # loads torch, which 'cxr train' does without

    try:
        latest = json.loads(store.read_bytes(_key(run_id, "latest.json")))
    except MissingObjectError:
        return False
    kept = [path for path in run.checkpoints.glob("*.pt") if path.name >= latest["name"]]
    if any(map(is_whole, kept)):
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
                "it; without --resume a new one begins"
            ) from error
    settings: dict[str, Any] = json.loads(text)
    return settings


def require_unbegun(store: ObjectStore, run: RunFolder, run_id: str) -> None:
    """Raises ``ConfigError`` where checkpoints of a run, or of its folds, lie here or in the
    bucket: a new run of its name would delete them."""
    pattern = f"{run.checkpoints.name}/*.pt"
    if any(run.root.rglob(pattern)) or store.exists(_key(run_id, "latest.json")):
        raise ConfigError(
            f"run {run_id}: was begun and has not ended; go on with --resume {run_id}, or choose "
            "another --run-id (in Prefect's form: resume, or another run_id)"
        )


def drop_checkpoints(store: ObjectStore, run_id: str) -> None:
    """Of a run that is published."""
    for entry in store.list_objects(_key(run_id)):
        store.delete(entry.key)


def _key(run_id: str, name: str = "") -> str:
    return f"checkpoints/{run_id}/{name}"
