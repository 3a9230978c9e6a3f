"""The list of a published run's objects, and the few figures that an overview shows."""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from cxr_model.errors import ConfigError, StorageError
from cxr_model.intervals import format_estimate

SCHEMA_VERSION = 1
LATEST = "latest"
"""Stands for the newest run where a run id is asked for."""
TAKEN = (LATEST, "champion", "models")
"""What `cxr report`, `--model` and the folder of fetched runs mean something else by."""
WEIGHTS = "model/model.safetensors"
RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""Pattern of all that can be a folder, a key and a part of an address."""


class ManifestError(StorageError):
    """A manifest that this version cannot read."""


@dataclass(frozen=True, kw_only=True)
class ObjectRecord:
    key: str
    """Relative to the run."""
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    run_id: str
    created: str
    """Time of publication, UTC, ISO 8601 with milliseconds."""
    headline: dict[str, Any]
    """``preset``, ``source``, ``network`` and the estimates ``accuracy`` and
    ``balanced_accuracy``, each ``{"value", "ci_low", "ci_high", "n"}``."""
    objects: tuple[ObjectRecord, ...]
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_run_id(self.run_id)
        try:
            for name in ("preset", "source", "network"):
                str(self.headline[name])
            for name in ("accuracy", "balanced_accuracy"):
                format_estimate(self.headline[name])
                int(self.headline[name]["n"])
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"run {self.run_id}: its headline lacks or misstates {name}; publish it again"
            ) from error

    def record(self, key: str) -> ObjectRecord:
        for record in self.objects:
            if record.key == key:
                return record
        raise StorageError(
            f"run {self.run_id}: has no object {key!r}; it has "
            + ", ".join(record.key for record in self.objects)
        )

    def weights(self) -> ObjectRecord:
        """Of the run's network. Raises ``StorageError`` for a run that has none."""
        if all(record.key != WEIGHTS for record in self.objects):
            raise StorageError(
                f"run {self.run_id}: has no network of its own, as a cross-validation and an "
                "evaluation have none; name a training, see 'cxr runs'"
            )
        return self.record(WEIGHTS)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str) -> "Manifest":
        """Raises ``ManifestError``, which names ``origin``, for text of another shape."""
        try:
            fields = json.loads(text)
            if fields["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {fields['schema_version']}")
            return cls(
                run_id=str(fields["run_id"]),
                created=str(fields["created"]),
                headline=fields["headline"],
                objects=tuple(
                    ObjectRecord(
                        key=str(record["key"]),
                        size=int(record["size"]),
                        sha256=str(record["sha256"]),
                    )
                    for record in fields["objects"]
                ),
            )
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{origin}: is no manifest of schema {SCHEMA_VERSION} ({error}); publish the run "
                "again, or read it with the version that wrote it"
            ) from error


def is_run_id(name: str) -> bool:
    """Whether ``name`` can be a folder, a key and a part of an address, and is not taken."""
    return name not in TAKEN and bool(re.fullmatch(RUN_ID, name))


def check_run_id(run_id: str) -> None:
    """Raise ``ConfigError`` unless `is_run_id`."""
    if not is_run_id(run_id):
        raise ConfigError(
            f"run id {run_id!r}: use up to 100 letters, digits, '.', '_' and '-', beginning "
            f"with a letter or digit; {', '.join(TAKEN)} are taken"
        )
