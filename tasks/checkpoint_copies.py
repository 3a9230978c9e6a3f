"""Checkpoints on their way to object storage while the training goes on."""

import logging
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from cxr_model.errors import StorageError
from cxr_model.run_folder import RunFolder
from tasks.checkpoint_store import CheckpointWriter
from tasks.newest import Newest
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation


class CheckpointCopies:
    """Copies the newest of a run's checkpoints to ``location``, in a thread of its own.

    A slow bucket never holds the training: a checkpoint that still waits when a newer one
    comes is not copied. A bucket that is away is told to ``logger`` and stops nothing. Leaving
    the block waits for the last copy.
    """

    def __init__(
        self,
        location: StoreLocation,
        run: RunFolder,
        run_id: str,
        logger: "logging.Logger | logging.LoggerAdapter[Any]",
    ) -> None:
        self._location, self._run, self._run_id, self._logger = location, run, run_id, logger
        self._newest: Newest[tuple[BufferedReader, str]] = Newest(self._copy)
        self._writer: CheckpointWriter | None = None
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._newest.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        with self._ends:
            self._newest.__exit__(*error)

    def put(self, path: Path) -> None:
        """Have ``path`` copied. It is opened here: the training keeps its last few files only,
        and may delete this one before its turn comes."""
        try:
            file = path.open("rb")
        except FileNotFoundError:  # processes of a torchrun are ahead: a newer one is there
            return
        for dropped, _ in self._newest.put((file, path.name)):
            dropped.close()

    def _copy(self, checkpoint: tuple[BufferedReader, str]) -> None:
        file, name = checkpoint
        with file:
            try:
                if self._writer is None:
                    store = self._ends.enter_context(ObjectStore(self._location))
                    self._writer = CheckpointWriter(store, self._run, self._run_id)
                self._writer.put(file, name)
            except StorageError as error:
                self._logger.warning("checkpoint not copied, the next one will be: %s", error)
