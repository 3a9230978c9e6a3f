"""Where each file of a run lies, in progress on disk as later in object storage.

Files appear here whole or not at all; `atomic_path` and the writers on top of it see to that.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_model.errors import ConfigError, StorageError

if TYPE_CHECKING:  # the command line need not load pandas to know where files lie
    import pandas as pd

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RunFolder:
    """Names of a run's files below ``root``; the published keys are the same relative paths."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def index(self) -> Path:
        return self.root / "data" / "index.csv"

    @property
    def thumbnails(self) -> Path:
        """Of the indexed films, for the look at them; it stays on this machine."""
        return self.root / ".thumbnails.npy"

    @property
    def findings(self) -> Path:
        """A row for each thing found in a film before the films were dealt out."""
        return self.root / "data" / "hygiene.csv"

    @property
    def datasheet(self) -> Path:
        return self.root / "datasheet.md"

    @property
    def splits(self) -> Path:
        return self.root / "data" / "splits.csv"

    @property
    def history(self) -> Path:
        return self.root / "history.csv"

    @property
    def weights(self) -> Path:
        return self.root / "model" / "model.safetensors"

    @property
    def model_card(self) -> Path:
        """``model.json``: all that is needed to rebuild the network around its weights."""
        return self.root / "model" / "model.json"

    @property
    def decision(self) -> Path:
        """``decision.json``: what turns the network's probabilities into decisions."""
        return self.root / "model" / "decision.json"

    @property
    def outlier_model(self) -> Path:
        """What the training films' features look like, to tell other pictures from them."""
        return self.root / "model" / "outliers.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Of the training in progress; hidden files are not published."""
        return self.root / ".checkpoints"

    @property
    def folds(self) -> Path:
        """Of a cross-validation: a run folder for each training."""
        return self.root / "folds"

    def fold(self, name: str) -> "RunFolder":
        return RunFolder(self.folds / name)

    @property
    def crossval_config(self) -> Path:
        return self.root / "crossval-config.json"

    @property
    def crossval(self) -> Path:
        """What ``metrics.json`` is to a single training."""
        return self.root / "crossval.json"

    def protocol_predictions(self, protocol: str) -> Path:
        return self.root / f"predictions-{protocol}.csv"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.csv"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    @property
    def hygiene(self) -> Path:
        """What was found in the films before they were dealt out."""
        return self.root / "evidence" / "hygiene.json"

    @property
    def reliability(self) -> Path:
        """Calibration, operating points, risk and coverage."""
        return self.root / "evidence" / "reliability.json"

    @property
    def outliers(self) -> Path:
        return self.root / "evidence" / "outliers.json"

    @property
    def robustness(self) -> Path:
        return self.root / "evidence" / "robustness.json"

    @property
    def shortcuts(self) -> Path:
        return self.root / "evidence" / "shortcuts.json"

    @property
    def explanations(self) -> Path:
        """Whether each method of explanation can be believed."""
        return self.root / "evidence" / "explanations.json"

    @property
    def attributions(self) -> Path:
        return self.root / "attributions"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def source_state(self) -> Path:
        """What the source held before its films were taken; it stays on this machine."""
        return self.root / ".source.json"

    @property
    def timing(self) -> Path:
        """When the flow began and ended, and what each stage took; it stays on this machine."""
        return self.root / ".timing.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Have a disk without room for ``path``, which the block writes, end in a ``StorageError``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); free some space on that disk, then "
            "go on"
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; sync and rename it when the block succeeds.

    A reader sees the old file or the whole new one; after an error the temporary is gone.
    Raises ``StorageError`` where the disk is full.
    """
    # By chance, not by process: those of two machines on one volume may have the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with full_disk_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder that a user named. Raises ``ConfigError`` where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be made ({error.strerror}); name another place"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: cannot be written; name another place, or ask for the right")


def remove_at_once(folder: Path) -> None:
    """A removal that is killed leaves nothing that would be taken for whole."""
    going = folder.with_name(f".{folder.name}.removed")
    if going.exists():
        shutil.rmtree(going)
    shutil.rmtree(folder.rename(going))


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """A CSV with a header and without the index."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def write_json(path: Path, values: object) -> None:
    """Raises ``ValueError`` for NaN and infinities, which JSON does not have."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
