"""The network that `cxr serve` answers with, and the watch on what it should be."""

import asyncio
import logging
from collections.abc import Callable

import torch

from cxr_model.errors import CxrError
from cxr_model.serving import LoadedModel
from tasks.named_model import Found

log = logging.getLogger(__name__)


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
