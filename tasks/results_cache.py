"""What a stage found and wrote, kept in the bucket under a digest of all that decides it.

``results/<stage>/<digest>.zip`` is shared by runs and machines: a run that is started anew goes
on behind the last stage that it finished, and whatever the same films, weights and settings
gave before is fetched. Prefect's own cache keeps what a task returns, and needs a block with
the bucket's keys on its server; here the files of the run folder are what counts. Prefect's
setting ``PREFECT_TASKS_REFRESH_CACHE`` has everything done anew.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZIP_STORED, ZipFile

from prefect import get_run_logger
from prefect.settings import get_current_settings

import cxr_model
from cxr_model.archive import ZIP_DAMAGE
from cxr_model.config import WHERE_IT_TRAINS, RunConfig
from cxr_model.environment import package_versions
from cxr_model.errors import StorageError
from cxr_model.run_folder import RunFolder, atomic_path, sha256_file
from tasks.stage_clock import tell_fetched
from tasks.storage import ObjectStore, local_path
from tasks.storage_errors import MissingObjectError
from tasks.storage_location import StoreLocation

RESULTS = "results/"
_FOUND = ".found.json"

Found = TypeVar("Found")


def cached(
    location: StoreLocation,
    run: RunFolder,
    stage: str,
    config: RunConfig,
    inputs: Iterable[Path],
    work: Callable[[], Found],
    is_whole: Callable[[Found], bool] = lambda _: True,
) -> Found:
    """What ``work`` returns, done now or fetched with the files that it wrote below ``run``.

    ``inputs`` are the files that it reads; with the settings, the library's source and the
    versions of its packages they make the digest. What ``work`` returns must be JSON, and is
    kept where it ``is_whole``. A bucket that is away is a warning: the work is done then.
    """
    key = f"{RESULTS}{stage}/{_digest(stage, config, inputs)}.zip"
    logger = get_run_logger()
    if not get_current_settings().tasks.refresh_cache:
        try:
            with ObjectStore(location) as store:
                found: Found = _unpack(store.read_bytes(key), run.root)
        except MissingObjectError:
            logger.debug("%s: not in the results cache", stage)
        except (StorageError, KeyError, *ZIP_DAMAGE) as error:
            logger.warning("%s: the results cache is of no use, working: %s", stage, error)
        else:
            logger.info("%s: from the results cache, %s", stage, location.uri(key))
            tell_fetched()
            return found
    before = _files(run.root)
    found = work()
    written = [path for path, state in _files(run.root).items() if before.get(path) != state]
    # Where the library was exchanged meanwhile, it is unknown which one did the work.
    if is_whole(found) and _source_digest() == _source_at_first():
        try:
            with ObjectStore(location) as store:
                store.write_bytes(key, _pack(run.root, written, found))
        except StorageError as error:
            logger.warning("%s: not kept in the results cache: %s", stage, error)
    return found


def _digest(stage: str, config: RunConfig, inputs: Iterable[Path]) -> str:
    # Here: they load PyTorch, which housekeeping does without.
    from cxr_model.device import resolve_device, resolve_precision

    settings = asdict(config)
    for name in ("preset", "gates"):
        del settings[name]
    for name in WHERE_IT_TRAINS:
        del settings["training"][name]
    del settings["data"]["source"]  # the same films lie in a folder here, in a zip there
    device = resolve_device(config.training.device)
    decides = {
        "stage": stage,
        "inputs": [sha256_file(path) for path in inputs],
        "settings": settings,
        "precision": str(resolve_precision(config.training.precision, device)),
        "source": _source_at_first(),
        "versions": package_versions(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@cache
def _source_at_first() -> str:
    return _source_digest()


def _source_digest() -> str:
    """Of the library that does the work, whatever commit it is from."""
    digest = hashlib.sha256()
    (folder,) = map(Path, cxr_model.__path__)
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _files(root: Path) -> dict[Path, tuple[int, int]]:
    """What tells whether a file was written anew, in the order of writing; hidden ones stay out."""
    found = {
        path: (status.st_mtime_ns, status.st_ino)
        for path in root.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
        and (status := path.stat())
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _pack(root: Path, files: list[Path], found: object) -> bytes:
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_STORED) as archive:  # pictures and weights: hardly smaller
        archive.writestr(_FOUND, json.dumps(found, allow_nan=False))
        for path in files:
            archive.write(path, path.relative_to(root).as_posix())
    return packed.getvalue()


def _unpack(packed: bytes, root: Path) -> Any:
    """In the order of writing: what tells that all is there comes last, as it did then."""
    with ZipFile(io.BytesIO(packed)) as archive:
        if archive.testzip() is not None:
            raise ValueError("a member of the zip is damaged")
        for name in archive.namelist():
            if name != _FOUND:
                with atomic_path(local_path(root, name)) as temporary:
                    temporary.write_bytes(archive.read(name))
        return json.loads(archive.read(_FOUND))
