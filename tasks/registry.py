"""The registry: versions of a model in the bucket, and which of them is the champion.

``models/<name>/versions/<run_id>/`` holds a published run's model, settings, figures and
predictions, its ``VERSION.json`` last. ``models/<name>/log/000001.json``, ``000002.json``, ...
are the decisions, each the whole truth of its moment; the newest one names the champion, and
``champion.json`` repeats it for readers of the bucket.

A decision is one new object under the number after the one it was made upon. Where the store
refuses to overwrite (``If-None-Match``), the second of two that chose the same number fails
and decides again; elsewhere the caller holds a lock (`tasks.promotion.registry_lock`). So no
decision is lost and none is made on a champion that is no more.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_model.config_checks import check_model_name
from cxr_model.errors import StorageError
from cxr_model.run_folder import RunFolder, sha256_file
from tasks.manifest import WEIGHTS, check_run_id
from tasks.run_store import read_manifest
from tasks.storage import ObjectStore, in_parallel, local_path
from tasks.storage_errors import ChangedObjectError, ExistingObjectError, MissingObjectError

VERSION_FILES = (
    "config.json",
    "data/index.csv",
    "data/splits.csv",
    "metrics.json",
    "model/decision.json",
    "model/model.json",
    "model/model.safetensors",
    "predictions.csv",
)
"""What of a run is kept with its version, whatever becomes of the run."""

IF_THERE = ("model/outliers.safetensors",)
"""Kept and fetched beside them where the run has it: not every run fits an outlier score."""

_TRIES = 20
_PAUSE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Champion:
    """One decision: the champion of its moment, and who made it so, when and why."""

    number: int
    """Counts the model's decisions from 1."""
    model: str
    run_id: str
    digest: str
    """SHA-256 of the weights."""
    metrics: dict[str, Any]
    """The run's headline: data, network, accuracy and balanced accuracy with intervals."""
    action: str
    """``promote`` or ``rollback``."""
    who: str
    when: str
    """UTC, ISO 8601."""
    why: str
    previous: str
    """The run that was champion before; empty for the first."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A run's model in the registry."""

    model: str
    run_id: str
    digest: str
    metrics: dict[str, Any]
    registered: str
    """UTC, ISO 8601."""
    files: dict[str, str]
    """SHA-256 of each file by its key."""


def register_version(store: ObjectStore, model: str, run_id: str) -> Version:
    """Copy a published run's model below ``models/<model>/``; a second call changes nothing.

    Raises ``StorageError`` for a run that is not published or has no single model, such as a
    cross-validation.
    """
    check_model_name(model)
    manifest = read_manifest(store, run_id)
    manifest.weights()
    target = _version_key(model, manifest.run_id)
    has = {record.key for record in manifest.objects}
    keys = [*VERSION_FILES, *(key for key in IF_THERE if key in has)]
    files = {key: manifest.record(key).sha256 for key in keys}
    version = Version(
        model=model,
        run_id=manifest.run_id,
        digest=files[WEIGHTS],
        metrics=manifest.headline,
        registered=_now(),
        files=files,
    )

    def copy(key: str) -> None:
        data = store.read_bytes(f"runs/{manifest.run_id}/{key}")
        store.write_bytes(target + key, data, sha256=files[key])

    for _ in in_parallel(copy, keys):
        pass
    store.write_bytes(target + "VERSION.json", _to_json(asdict(version)))
    return version


def list_models(store: ObjectStore) -> list[str]:
    return store.list_folders("models/")


def list_versions(store: ObjectStore, model: str) -> list[Version]:
    """Newest first; one whose registration was broken off is none."""

    def read(run_id: str) -> Version | None:
        try:
            return Version(**_read(store, _version_key(model, run_id) + "VERSION.json"))
        except MissingObjectError:
            return None

    run_ids = store.list_folders(f"models/{model}/versions/")
    found = [version for version in in_parallel(read, run_ids) if version]
    return sorted(found, key=lambda version: (version.registered, version.run_id), reverse=True)


def read_log(store: ObjectStore, model: str) -> list[Champion]:
    """Every decision on ``model``, the newest last."""
    check_model_name(model)
    keys = [stored.key for stored in store.list_objects(f"models/{model}/log/")]
    return [Champion(**values) for values in in_parallel(lambda key: _read(store, key), keys)]


def find_champion(store: ObjectStore, model: str) -> Champion | None:
    """The newest decision, or None before the first."""
    check_model_name(model)
    keys = [stored.key for stored in store.list_objects(f"models/{model}/log/")]
    return Champion(**_read(store, keys[-1])) if keys else None


def read_champion(store: ObjectStore, model: str = "") -> Champion:
    """The champion of ``model``; without a name, that of the only model there is.

    Raises ``StorageError`` where there is none, or several models to choose from.
    """
    if not model:
        models = list_models(store)
        if len(models) > 1:
            raise StorageError(
                f"{store.location.uri('models/')}: holds {', '.join(models)}; say which one, "
                "as MODEL/champion"
            )
        model = models[0] if models else ""
    champion = find_champion(store, model) if model else None
    if champion is None:
        raise StorageError(
            f"{store.location.uri('models/' + model)}: has no champion; promote a run with "
            "'cxr promote RUN --reason ...', or name another model ('cxr models' lists them)"
        )
    return champion


def decide(
    store: ObjectStore,
    model: str,
    choose: Callable[[Champion | None], Champion | None],
) -> Champion | None:
    """Append the decision that ``choose`` makes on the champion as it stands, if it makes one.

    It is asked anew whenever another decision came first. Where the store cannot refuse an
    overwrite the caller holds the registry's lock.
    """
    for _ in range(_TRIES):
        current = find_champion(store, model)
        chosen = choose(current)
        if chosen is None:
            if current is not None:  # whoever decided may have been killed before it told
                _tell_readers(store, model)
            return None
        key, told = f"models/{model}/log/{chosen.number:06d}.json", _to_json(asdict(chosen))
        try:
            store.create(key, told)
        except ExistingObjectError:
            # Ours, where the answer to a first attempt was lost: asked again, a rollback would
            # go back twice.
            try:
                if store.read_bytes(key) != told:
                    continue
            except MissingObjectError:  # another one is being written under this number
                time.sleep(_PAUSE_S)
                continue
        _tell_readers(store, model)
        return chosen
    raise StorageError(
        f"{store.location.uri(f'models/{model}/log/')}: {_TRIES} other decisions came first; "
        "try again"
    )


def promotion(
    current: Champion | None, version: Version, *, who: str, why: str, action: str = "promote"
) -> Champion:
    """The decision that makes ``version`` follow ``current``."""
    return Champion(
        number=current.number + 1 if current else 1,
        model=version.model,
        run_id=version.run_id,
        digest=version.digest,
        metrics=version.metrics,
        action=action,
        who=who,
        when=_now(),
        why=why,
        previous=current.run_id if current else "",
    )


def rollback_target(log: list[Champion]) -> str:
    """The run to go back to: the one before the champion; of rollbacks in a row, further back.

    Raises ``StorageError`` where there is nothing before.
    """
    past: list[str] = []
    for decision in log:
        if decision.action == "rollback" and decision.run_id in past:
            while past[-1] != decision.run_id:  # which may have been champion before that too
                past.pop()
        elif not past or past[-1] != decision.run_id:
            past.append(decision.run_id)
    if len(past) < 2:
        raise StorageError(
            "there is no champion before this one; choose a version with 'cxr promote'"
        )
    return past[-2]


def read_version(store: ObjectStore, model: str, run_id: str) -> Version:
    """Raises ``StorageError`` for a run that is not registered."""
    check_model_name(model)
    check_run_id(run_id)
    try:
        return Version(**_read(store, _version_key(model, run_id) + "VERSION.json"))
    except MissingObjectError as error:
        raise StorageError(
            f"model {model}: has no version {run_id}; 'cxr models' lists them"
        ) from error


def require_whole(store: ObjectStore, version: Version) -> None:
    """Raise ``StorageError`` where an object of the version is gone: it could not serve."""
    folder = _version_key(version.model, version.run_id)
    there = {stored.key for stored in store.list_objects(folder)}
    for key in version.files:
        if folder + key not in there:
            raise StorageError(
                f"{store.location.uri(folder + key)}: is gone; choose another version with "
                "'cxr promote'"
            )


def find_version(store: ObjectStore, model: str = "", run_id: str = "") -> Version:
    """A version by name; without ``run_id`` the champion, without ``model`` the only model's."""
    if not model or not run_id:
        champion = read_champion(store, model)
        model, run_id = champion.model, run_id or champion.run_id
    return read_version(store, model, run_id)


def fetch_version(
    store: ObjectStore, model: str, run_id: str, folder: Path, files: tuple[str, ...] = ()
) -> RunFolder:
    """A version's files (all, or those named and `IF_THERE`) below ``folder/<model>/<run_id>``.

    Each is checked against its digest; one that is there with the right bytes is kept. Raises
    ``StorageError`` where a named one is missing: the version is older than what needs it.
    """
    version = read_version(store, model, run_id)
    require_files(f"{model}/{run_id}", files, version.files)
    target = folder / model / run_id

    def fetch(key: str) -> None:
        path, sha256 = local_path(target, key), version.files[key]
        if not (path.is_file() and sha256_file(path) == sha256):
            store.download_file(_version_key(model, run_id) + key, path, sha256=sha256)

    wanted = [key for key in version.files if not files or key in (*files, *IF_THERE)]
    for _ in in_parallel(fetch, wanted):
        pass
    if target.is_dir():
        os.utime(target)  # housekeeping takes what was not used for long
    return RunFolder(target)


def require_files(name: str, wanted: Iterable[str], has: Collection[str]) -> None:
    """Raise ``StorageError`` where the model ``name`` lacks a file that it cannot serve without."""
    for key in wanted:
        if key not in has:
            raise StorageError(f"{name}: has no {key}; train and promote anew")


def registered_runs(store: ObjectStore) -> set[str]:
    """Runs that a model of the registry comes from: never swept away."""
    return {
        run_id
        for model in list_models(store)
        for run_id in store.list_folders(f"models/{model}/versions/")
    }


def _tell_readers(store: ObjectStore, model: str) -> None:
    """Write ``champion.json`` anew until it is the newest decision."""
    for _ in range(_TRIES):
        newest = find_champion(store, model)
        assert newest is not None  # a decision was written just now
        try:
            store.write_bytes(f"models/{model}/champion.json", _to_json(asdict(newest)))
        except ChangedObjectError:  # read back what another decision's caller wrote meanwhile
            continue
        if find_champion(store, model) == newest:
            return


def _version_key(model: str, run_id: str) -> str:
    return f"models/{model}/versions/{run_id}/"


def _read(store: ObjectStore, key: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(store.read_bytes(key))
    return values


def _to_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
