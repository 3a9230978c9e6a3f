"""States of a training on disk, from which it goes on after whatever has stopped it."""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch

from cxr_model.errors import CheckpointMismatch, OtherFilms, StorageError
from cxr_model.run_folder import atomic_path
from cxr_model.trainer import State

FORMAT_VERSION = 2
_NUM_KEPT = 2
# What ZipFile and torch.load raise on a damaged file.
_DAMAGE = (
    *(BadZipFile, NotImplementedError, RuntimeError, EOFError, pickle.UnpicklingError),
    *(LookupError, ValueError, AssertionError, TypeError, AttributeError),
)

log = logging.getLogger(__name__)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read and its sums are right."""
    try:
        _require_whole(path)
    except (OSError, *_DAMAGE):
        return False
    return True


def _require_whole(path: Path) -> None:
    with ZipFile(path) as archive:  # torch.load does not look at the sums
        if damaged := archive.testzip():
            raise BadZipFile(f"{damaged} is damaged")


@dataclass(frozen=True)
class Checkpoints:
    """A folder of ``step-00000042.pt`` files, of which the last two are kept."""

    folder: Path
    identity: Mapping[str, str]
    """By name, what decides the weights, ``films`` among it: a checkpoint of others is refused."""

    def save(self, state: State, step: int) -> Path:
        """Write ``state`` whole or not at all, then drop the oldest; returns the file."""
        path = self.folder / f"step-{step:08d}.pt"
        saved = {"format_version": FORMAT_VERSION, "identity": dict(self.identity), "state": state}
        # By a file of ours: torch tells of no reason where it cannot write one of its own.
        with atomic_path(path) as temporary, temporary.open("wb") as written:
            torch.save(saved, written)
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

        Raises ``OtherFilms`` where nothing but the films differs, ``CheckpointMismatch`` for one of
        another training or format, and ``StorageError`` where the disk does not give it.
        """
        for path in self.files():
            try:
                _require_whole(path)
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
            if version != FORMAT_VERSION:
                raise CheckpointMismatch(
                    f"{path}: is of another version of CXResnet; resume with that, or start a new "
                    "run"
                )
            others = [name for name, own in self.identity.items() if identity.get(name) != own]
            if others:
                kind = OtherFilms if others == ["films"] else CheckpointMismatch
                raise kind(
                    f"{path}: is of other {' and '.join(others)}; resume with those of the run, "
                    "or start a new run"
                )
            return state
        return None
