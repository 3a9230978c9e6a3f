"""A table of predictions that grows on disk in parts, so that a killed run goes on where it was.

``FILE.parts`` holds ``question.json``, which says what was asked, and ``000000.csv`` (or
``.parquet``, ``.jsonl``) and so on, each whole or not there. At the end they are joined to
``FILE`` and removed.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from cxr_model.errors import ConfigError
from cxr_model.run_folder import atomic_path, make_folder, read_json, remove_at_once, write_json

ROWS_PER_PART = 1024
"""A multiple of the batch size: a run that goes on forms the batches an unbroken one does."""


def check_predictions_path(path: Path) -> None:
    """Raise ConfigError for a suffix that names no format and for a file that is there."""
    if path.suffix not in _FORMATS:
        raise ConfigError(f"{path}: name a file that ends in {', '.join(_FORMATS)}")
    if path.exists():
        raise ConfigError(f"{path}: is there already; delete it or name another file")


@contextmanager
def open_predictions(path: Path, question: dict[str, Any]) -> Iterator["PredictionsFile"]:
    """A table to be written to ``path``, gone on with where ``path.parts`` holds the beginning.

    ``question`` holds plain JSON values: all that decides the rows. Raises ConfigError as
    ``check_predictions_path`` does, for parts that answer another question, and while
    another process writes the same table.
    """
    check_predictions_path(path)
    parts = path.with_name(f"{path.name}.parts")
    make_folder(parts)
    try:
        with FileLock(parts / "lock", timeout=0):
            _check_question(parts, question)
            yield PredictionsFile(path, parts)
    except Timeout as error:
        raise ConfigError(
            f"{path}: is being written by another process; wait for it or name another file"
        ) from error


class PredictionsFile:
    """``add`` rows, ``finish`` at the end; what was added last may be lost before that."""

    def __init__(self, path: Path, parts: Path) -> None:
        self.path, self.parts = path, parts
        self._format = _FORMATS[path.suffix]
        self._rows: list[pd.DataFrame] = []
        finished = self._finished()
        self._num_parts = len(finished)
        self.done = {name for part in finished for name in self._format.read_paths(part)}
        """The column ``path`` of all rows in finished parts."""

    def add(self, table: pd.DataFrame) -> None:
        self._rows.append(table)
        while sum(len(rows) for rows in self._rows) >= ROWS_PER_PART:
            rows = pd.concat(self._rows, ignore_index=True)
            self._write_part(rows[:ROWS_PER_PART])
            self._rows = [rows[ROWS_PER_PART:]]

    def finish(self) -> None:
        """Write the file from its parts and remove them."""
        rest = pd.concat(self._rows) if self._rows else pd.DataFrame()
        if len(rest):
            self._write_part(rest)
        with atomic_path(self.path) as temporary:
            self._format.join(self._finished(), temporary)
        remove_at_once(self.parts)  # half of them would pass for the beginning of the next answer

    def _finished(self) -> list[Path]:
        return sorted(self.parts.glob(f"[0-9]*{self.path.suffix}"))

    def _write_part(self, rows: pd.DataFrame) -> None:
        with atomic_path(self.parts / f"{self._num_parts:06d}{self.path.suffix}") as temporary:
            self._format.write(rows, temporary)
        self._num_parts += 1
        self._rows = []


def _check_question(parts: Path, question: dict[str, Any]) -> None:
    file = parts / "question.json"
    if not file.exists():
        write_json(file, question)
        return
    asked = read_json(file)
    for name in question:
        if asked.get(name) != question[name]:
            raise ConfigError(
                f"{parts}: was begun with {name} {asked.get(name)!r}, now it is "
                f"{question[name]!r}; ask as before to finish it, or delete the folder"
            )


@dataclass(frozen=True)
class _Format:
    write: Callable[[pd.DataFrame, Path], None]
    read_paths: Callable[[Path], list[str]]
    join: Callable[[list[Path], Path], None]


def _write_csv(rows: pd.DataFrame, file: Path) -> None:
    rows.to_csv(file, index=False)


def _csv_paths(file: Path) -> list[str]:
    table = pd.read_csv(file, usecols=["path"], dtype=str, keep_default_na=False)
    return table["path"].tolist()


def _join_csv(parts: list[Path], file: Path) -> None:
    with file.open("wb") as sink:
        for number, part in enumerate(parts):
            with part.open("rb") as source:
                header = source.readline()
                sink.write(b"" if number else header)
                shutil.copyfileobj(source, sink)


def _write_json_lines(rows: pd.DataFrame, file: Path) -> None:
    # By hand, as to_json rounds to 15 digits. JSON has no NaN.
    records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _json_paths(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["path"] for line in lines]


def _join_bytes(parts: list[Path], file: Path) -> None:
    with file.open("wb") as sink:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, sink)


def _write_parquet(rows: pd.DataFrame, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # By the columns' types, not their values: all parts have one schema, whatever is empty.
    kinds = {
        name: pa.from_numpy_dtype(kind) if isinstance(kind, np.dtype) else pa.string()
        for name, kind in rows.dtypes.items()
    }
    pq.write_table(pa.Table.from_pandas(rows, pa.schema(kinds), preserve_index=False), file)


def _parquet_paths(file: Path) -> list[str]:
    import pyarrow.parquet as pq

    paths: list[str] = pq.read_table(file, columns=["path"])["path"].to_pylist()
    return paths


def _join_parquet(parts: list[Path], file: Path) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, pq.read_schema(parts[0])) as sink:
        for part in parts:
            sink.write_table(pq.read_table(part))


_FORMATS = {
    ".csv": _Format(_write_csv, _csv_paths, _join_csv),
    ".parquet": _Format(_write_parquet, _parquet_paths, _join_parquet),
    ".jsonl": _Format(_write_json_lines, _json_paths, _join_bytes),
}
