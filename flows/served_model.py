"""The network that `cxr serve` answers with, and the watch on what it should be."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cxr_model.errors import CxrError
from cxr_model.run_folder import RunFolder
from cxr_model.serving import LoadedModel
from tasks.registry import fetch_version, read_champion
from tasks.run_store import fetch_run, read_manifest
from tasks.storage import ObjectStore

CHAMPION = "champion"

_WEIGHTS = "model/model.safetensors"
_MODEL_FILES = (_WEIGHTS, "model/model.json")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a name stands for at this moment."""

    run_id: str
    digest: str
    """SHA-256 of ``model.safetensors``."""
    fetch: Callable[[], RunFolder]
    """Fetch the model's files, checked against their digests."""


def find_model(store: ObjectStore, name: str, folder: Path) -> Found:
    """``champion`` or ``MODEL/champion`` of the registry, a run's id or ``latest``.

    Files are fetched below ``folder``. Raises ``StorageError`` where there is no such model.
    """
    model, _, last = name.rpartition("/")
    if last == CHAMPION:
        champion = read_champion(store, model)
        return Found(
            run_id=champion.run_id,
            digest=champion.digest,
            fetch=lambda: fetch_version(
                store, champion.model, champion.run_id, folder / "models", _MODEL_FILES
            ),
        )
    manifest = read_manifest(store, name, _MODEL_FILES)
    return Found(
        run_id=manifest.run_id,
        digest=manifest.record(_WEIGHTS).sha256,
        fetch=lambda: RunFolder(fetch_run(store, manifest.run_id, folder, _MODEL_FILES)),
    )


class ServedModel:
    """Looks for another model every ``refresh_s`` seconds and keeps the old one until it is loaded.

    To be used from one event loop; what blocks is done in threads.
    """

    def __init__(self, find: Callable[[], Found], device: torch.device, refresh_s: float) -> None:
        self.current: LoadedModel | None = None
        self.error = ""
        """Why the last look failed, in one line; empty if it did not."""
        self._identity = ("", "")
        self._find = find
        self._device = device
        self._refresh_s = refresh_s

    async def keep_fresh(self) -> None:
        """Look now and for ever after."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._refresh_s)

    async def refresh(self) -> None:
        """Load what the name stands for now, unless it is what answers already."""
        try:
            found = await asyncio.to_thread(self._find)
            if (found.run_id, found.digest) != self._identity:
                self.current = await asyncio.to_thread(self._load, found)
                self._identity = (found.run_id, found.digest)
                log.info("the network of run %s answers (%s)", found.run_id, found.digest)
            self.error = ""
        except CxrError as error:
            self._tell(str(error), None)
        # Whatever is published, by whatever version: it must end neither the service nor the watch.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._tell(f"the model cannot be loaded ({reason[:200]}); promote another", error)

    def _load(self, found: Found) -> LoadedModel:
        return LoadedModel.load(found.fetch(), found.digest, self._device)

    def _tell(self, line: str, defect: Exception | None) -> None:
        if line != self.error:  # once, not at every look
            log.warning("%s", line, exc_info=defect)
        self.error = line
