"""States of a training on disk, from which it goes on after whatever has stopped it."""

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from cxr_model.errors import CheckpointMismatch, StorageError
from cxr_model.run_folder import atomic_path
from cxr_model.trainer import State

FORMAT_VERSION = 1
_NUM_KEPT = 2
# What torch.load raises on a damaged file.
_DAMAGE = (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoints:
    """A folder of ``step-00000042.pt`` files, of which the last two are kept."""

    folder: Path
    identity: str
    """Digest of settings and films: a checkpoint of others is refused."""

    def save(self, state: State, step: int) -> Path:
        """Write ``state`` whole or not at all, then drop the oldest; returns the file."""
        path = self.folder / f"step-{step:08d}.pt"
        with atomic_path(path) as temporary:
            torch.save(
                {"format_version": FORMAT_VERSION, "identity": self.identity, "state": state},
                temporary,
            )
        # Files of later steps are of a training that has since gone back.
        older = [file for file in self.files() if file.name <= path.name]
        for file in {*self.files()} - {*older[:_NUM_KEPT]}:
            file.unlink(missing_ok=True)
        return path

    def files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def latest(self) -> State | None:
        """The newest state that can be read, its tensors on the CPU; None where none is.

        Raises ``CheckpointMismatch`` for one of other settings, films or another format, and
        ``StorageError`` where the disk does not give it.
        """
        for path in self.files():
            try:
                saved = torch.load(path, map_location="cpu", weights_only=True)
                version, identity = saved["format_version"], saved["identity"]
                state: State = saved["state"]
            except OSError as error:  # no damage: the files after it are not to be given up
                raise StorageError(
                    f"{path}: cannot be read ({error.strerror or error}); mend the disk, then "
                    "resume"
                ) from error
            except _DAMAGE as error:
                log.warning("%s: cannot be read (%s); trying the one before", path, error)
                continue
            if (version, identity) != (FORMAT_VERSION, self.identity):
                raise CheckpointMismatch(
                    f"{path}: is of other settings, films or another version; resume with those "
                    "of the run, or start a new run"
                )
            return state
        return None
