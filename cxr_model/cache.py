"""Films decoded once to 8-bit squares, in one growing memory-mapped file for each pixel format.

A store is a folder such as ``224px-grey-v1`` with two files that only grow:

- ``films.u8``: one row of ``size_px * size_px`` (times 3 for RGB) bytes a film;
- ``rows.csv``: the ledger ``sha256,row,crc32``, a line a row. Pixels are on disk before their
  line is, so whatever a killed process leaves behind, a line in the ledger stands for a film.

Films are keyed by the SHA-256 of their file: data sets share a store, duplicates a row, and a
changed file is another film. How fast: ``docs/benchmarks.md``.
"""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError

from cxr_model.ahead import map_ahead
from cxr_model.errors import DataError
from cxr_model.grey_levels import to_8_bits
from cxr_model.run_folder import full_disk_told

Color = Literal["grey", "rgb"]
Progress = Callable[[int, int], None]
Pixels = npt.NDArray[np.uint8]

FORMAT_VERSION = 1
"""Part of each store's name; raise it whenever ``film_pixels`` returns other pixels."""

_MAX_PIXELS = 89_478_485  # Pillow warns above this; a 35 x 43 cm film at 600 dpi is below
_CHUNK_BYTES = 4 * 2**20
_FILMS_A_TASK = 8  # one by one, handing them over cost 3 % of the time
_HEADER = b"sha256,row,crc32\n"
_LEDGER_LINE = re.compile(rb"([0-9a-f]{64}),(0|[1-9]\d*),([0-9a-f]{8})\n")
_STORE_NAME = re.compile(rf"(\d+)px-(grey|rgb)-v{FORMAT_VERSION}")
# What Pillow's decoders may raise on damaged bytes; seen on 200,000 randomly damaged films.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, zlib.error)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@contextmanager
def open_film(data: bytes) -> Iterator[Image.Image]:
    """Open the bytes of an image or DICOM file; what the block's decoding raises is a DataError.

    Bytes alone tell which it is, as the cache knows a film by its bytes. The message is the
    bare reason, for the caller to put the film's name before.
    """
    try:
        with _open_dicom(data) if data[128:132] == b"DICM" else Image.open(BytesIO(data)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} pixels are no radiograph's")
            yield image
    except UnidentifiedImageError as error:
        raise DataError("no known image format") from error
    except (*_DAMAGE, *_BOMB) as error:
        raise DataError(str(error) or type(error).__name__) from error


def _open_dicom(data: bytes) -> Image.Image:
    try:  # training on other films needs no pydicom
        from cxr_model.dicom import read_dicom
    except ModuleNotFoundError as error:
        raise DataError("DICOM, for which 'pip install pydicom imagecodecs' is needed") from error
    return read_dicom(data, max_pixels=_MAX_PIXELS)


def decode_film(source: Path | bytes, size_px: int, color: Color) -> Pixels:
    """``film_pixels`` of an image file or of its bytes; DataError with its name and the reason."""
    try:
        with open_film(source if isinstance(source, bytes) else source.read_bytes()) as image:
            return film_pixels(image, size_px, color)
    except (DataError, OSError) as error:
        name = source if isinstance(source, Path) else f"image of {len(source)} bytes"
        raise DataError(f"{name}: cannot be decoded ({error}); replace or remove it") from error


def film_pixels(image: Image.Image, size_px: int, color: Color) -> Pixels:
    """A freshly opened image as uint8 of (size_px, size_px), or (size_px, size_px, 3) for RGB.

    Turned upright by its EXIF orientation, squashed to a square without borders (whose width
    would give away the aspect ratio, and with it the hospital), transparency dropped, grey
    levels of more than 8 bits scaled by `cxr_model.grey_levels.to_8_bits`.
    """
    mode = "L" if color == "grey" else "RGB"
    # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, never below size_px. Others: no effect.
    image.draft(mode, (size_px, size_px))
    ImageOps.exif_transpose(image, in_place=True)
    upright = _to_8_bits(image)
    if upright.mode != mode:  # convert copies even where nothing changes
        upright = upright.convert(mode)
    return np.array(upright.resize((size_px, size_px), Image.Resampling.BILINEAR))


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "P" and image.has_transparency_data:
        return image.convert("RGBA")  # Pillow warns about the direct way
    if not image.mode.startswith(("I", "F")):
        return image
    return Image.fromarray(to_8_bits(np.asarray(image)))


@dataclass(frozen=True, eq=False)
class FilmCache:
    """A store opened for reading; films appended later are not seen."""

    folder: Path
    films: np.memmap[tuple[int, ...], np.dtype[np.uint8]]
    """(N, H, W) or (N, H, W, 3), read-only."""
    pixels_file: Path
    _row_of: dict[str, int]

    @classmethod
    def open(cls, folder: Path) -> "FilmCache":
        """Open the store ``folder`` (``CacheReport.folder``); DataError where it is none."""
        store = _Store.at(folder)
        entries = store.read_ledger()
        if not entries:
            raise DataError(f"{folder}: holds no films; build the cache first")
        shape = (len(entries), *store.row_shape)
        films = np.memmap(store.pixels, dtype=np.uint8, mode="r", shape=shape)
        return cls(
            folder, films, store.pixels, {sha256: row for row, (sha256, _) in enumerate(entries)}
        )

    def rows(self, sha256s: Sequence[str]) -> npt.NDArray[np.int64]:
        """The row in ``films`` of each film; DataError where one is not cached."""
        for sha256 in sha256s:
            if sha256 not in self._row_of:
                raise DataError(f"{self.folder}: film {sha256} is not cached; build the cache anew")
        return np.array([self._row_of[sha256] for sha256 in sha256s], dtype=np.int64)


@dataclass(frozen=True)
class CacheReport:
    folder: Path
    """The store, for ``FilmCache.open``."""
    num_written: int
    num_reused: int


def build_cache(
    root: Path,
    index: pd.DataFrame,
    folder: Path,
    *,
    size_px: int,
    color: Color,
    progress: Progress | None = None,
) -> CacheReport:
    """Decode the readable films of ``index`` that the store below ``folder`` does not hold yet.

    Safe to kill and to call again: at most two chunks (of 4 MiB of pixels), or some sixteen films
    where those are larger, are decoded twice. Rows that are reused are read and checked against
    their CRC first, and damaged ones decoded anew. A second process that builds the same store
    waits. Counts are of distinct files.

    Raises DataError for a film that cannot be decoded or has changed since it was indexed.
    """
    store = _Store.at(folder / f"{size_px}px-{color}-v{FORMAT_VERSION}")
    store.folder.mkdir(parents=True, exist_ok=True)
    films = index.loc[index["error"] == "", ["sha256", "path"]].drop_duplicates("sha256")
    with FileLock(store.folder / "lock"):
        entries = store.recover()
        intact = store.intact(entries, set(films["sha256"]))
        missing = films[~films["sha256"].isin(intact)]
        num_done, num_rows = len(intact), len(entries)
        if progress:
            progress(num_done, len(films))
        num_chunk = max(1, _CHUNK_BYTES // store.row_bytes)
        rows = zip(missing["sha256"], missing["path"], strict=True)
        parts = map_ahead(
            lambda part: [(film[0], _read_pixels(root, size_px, color, *film)) for film in part],
            iter(lambda: list(islice(rows, _FILMS_A_TASK)), []),
            num_threads=os.cpu_count() or 1,  # Pillow and hashlib let go of the GIL
            num_ahead=-(-num_chunk // _FILMS_A_TASK),  # decoded while the chunk before is written
        )
        decoded = chain.from_iterable(parts)
        while chunk := list(islice(decoded, num_chunk)):
            store.append(num_rows, chunk)
            num_rows += len(chunk)
            num_done += len(chunk)
            if progress:
                progress(num_done, len(films))
    return CacheReport(store.folder, num_written=len(missing), num_reused=len(intact))


def read_film(path: Path, sha256: str) -> bytes:
    """A film's bytes. Raises ``DataError`` with the bare reason where they are others."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError("it has changed")
    return data


def _read_pixels(root: Path, size_px: int, color: Color, sha256: str, path: str) -> Pixels:
    try:
        with open_film(read_film(root / path, sha256)) as image:
            return film_pixels(image, size_px, color)
    except (DataError, OSError) as error:
        raise DataError(f"{path}: is not as indexed ({error}); index the films anew") from error


@dataclass(frozen=True)
class _Store:
    """The two files of a store; ``recover`` and ``append`` need its lock to be held."""

    folder: Path
    row_shape: tuple[int, ...]

    @classmethod
    def at(cls, folder: Path) -> "_Store":
        match = _STORE_NAME.fullmatch(folder.name)
        if match is None:
            raise DataError(f"{folder}: is no film cache of format {FORMAT_VERSION}; build it anew")
        side = int(match[1])
        return cls(folder, (side, side) if match[2] == "grey" else (side, side, 3))

    @property
    def pixels(self) -> Path:
        return self.folder / "films.u8"

    @property
    def ledger(self) -> Path:
        return self.folder / "rows.csv"

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape))

    def read_ledger(self) -> list[tuple[str, int]]:
        """(SHA-256, CRC-32) of each row, up to the first line or row that is torn."""
        try:
            num_rows = self.pixels.stat().st_size // self.row_bytes
            header, *lines = self.ledger.read_bytes().splitlines(keepends=True)
        except (FileNotFoundError, ValueError):  # ValueError: an empty ledger
            return []
        entries: list[tuple[str, int]] = []
        for row, line in enumerate(lines[:num_rows] if header == _HEADER else []):
            match = _LEDGER_LINE.fullmatch(line)
            if match is None or int(match[2]) != row:
                break
            entries.append((match[1].decode(), int(match[3], 16)))
        return entries

    def recover(self) -> list[tuple[str, int]]:
        """``read_ledger``, and cut off what stands behind it. Readers never look there."""
        entries = self.read_ledger()
        size = len(_HEADER + _ledger_lines(entries, first_row=0))
        for file, end in ((self.pixels, len(entries) * self.row_bytes), (self.ledger, size)):
            file.touch()
            os.truncate(file, end)
        if not entries:
            self.ledger.write_bytes(_HEADER)
        return entries

    def intact(self, entries: list[tuple[str, int]], wanted: set[str]) -> set[str]:
        """Those of ``wanted`` whose pixels are as they were written."""
        row_of = {sha256: row for row, (sha256, _) in enumerate(entries) if sha256 in wanted}
        found = set()
        with self.pixels.open("rb") as file:
            for sha256, row in row_of.items():
                file.seek(row * self.row_bytes)
                if zlib.crc32(file.read(self.row_bytes)) == entries[row][1]:
                    found.add(sha256)
        return found

    def append(self, first_row: int, films: list[tuple[str, Pixels]]) -> None:
        entries = [(sha256, zlib.crc32(pixels.data)) for sha256, pixels in films]
        for file, data in (
            (self.pixels, b"".join(pixels.data for _, pixels in films)),
            (self.ledger, _ledger_lines(entries, first_row)),
        ):
            with full_disk_told(file), file.open("ab") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())


def _ledger_lines(entries: list[tuple[str, int]], first_row: int) -> bytes:
    return b"".join(
        b"%s,%d,%08x\n" % (sha256.encode(), row, crc)
        for row, (sha256, crc) in enumerate(entries, start=first_row)
    )
