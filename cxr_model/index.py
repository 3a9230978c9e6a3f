"""The table of a data set: a row a film, with what its file says and whether it decodes.

Each film is read once here, so what the look at the films needs of its pixels is taken on the
way: a thumbnail, whose hash and copies stand in the table. That took 2.2 s of processor time for
1,124 films, within the noise of what decoding them and hashing their bytes takes alone.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxr_model.ahead import map_ahead
from cxr_model.cache import Pixels, Progress, film_pixels, open_film
from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.errors import DataError
from cxr_model.hygiene.copies import same_pixels
from cxr_model.hygiene.near_duplicates import Link, components, find_links
from cxr_model.hygiene.perceptual_hash import perceptual_hashes
from cxr_model.hygiene.thumbnails import THUMBNAIL_PX, Thumbnails, read_thumbnails, write_header
from cxr_model.labels import Film, find_films
from cxr_model.run_folder import atomic_path, write_table

COLUMNS = (
    "path",
    "label",
    "subclass",
    "sha256",
    "width",
    "height",
    "mode",
    "format",
    "patient",
    "series",
    "mask",
    "error",
    "jpeg_quality",
    "chroma",
    "phash",
    "copies",
)
_OF_ALL_FILMS = ("phash", "copies")  # found when all thumbnails are there
_NOTHING = r"(?!)()"  # an expression that never matches
_TYPES = {"width": "int64", "height": "int64", "jpeg_quality": "int64", "chroma": "float64"}
_NUM_SHOWN = 3
_GREY_MODES = ("1", "L", "LA")
_LUMA = np.array([299, 587, 114]) / 1000  # ITU-R 601-2, as Pillow's conversion to grey
_IJG_SUM = 3685  # of the 64 entries of the IJG's luminance table at quality 50


def build_index(
    root: Path,
    data: DataConfig,
    labels: LabelConfig,
    *,
    near_duplicates: bool = True,
    every_class: bool = True,
    thumbnails: Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """One row (``COLUMNS``) for each film below ``root``, sorted by path.

    ``width`` and ``height`` are the stored pixels, before any EXIF turn. A film that does not
    decode keeps its row, with the reason in ``error``. ``mask`` is ``masks/<path>.png`` where
    that file exists. ``jpeg_quality`` is the encoder's setting, on the IJG's scale (0: no JPEG),
    ``chroma`` the mean distance between a pixel's largest and smallest channel (0 to 255),
    ``phash`` `perceptual_hashes` in hexadecimal. Files of other bytes and the same pixels share
    the name in ``copies`` (`same_pixels`) and, if ``near_duplicates``, so do those that show the
    same picture (`find_links`).

    ``thumbnails`` names a file for the grey pictures that all this was found on: uint8
    (films, 32, 32), zero where a film does not decode.

    Raises DataError as ``find_films`` does, and where more than
    ``data.max_unreadable_fraction`` of the films or, if ``every_class`` is wanted, all films of
    a class do not decode; always where no film does.
    """
    patient_rule = re.compile(data.patient_pattern or _NOTHING)
    series_rule = re.compile(data.series_pattern or _NOTHING, re.IGNORECASE)
    films, classes = find_films(root, labels, every_class=every_class)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS if name not in _OF_ALL_FILMS}
    num_threads = os.cpu_count() or 1  # Pillow and hashlib let go of the GIL
    inspected = map_ahead(
        lambda film: _inspect(root, film), films, num_threads=num_threads, num_ahead=8 * num_threads
    )
    with _new_file(thumbnails) as pictures_file:
        with pictures_file.open("wb") as pictures:  # not in memory, however many there are
            write_header(pictures, len(films))
            for number, (film, (facts, picture)) in enumerate(zip(films, inspected, strict=True)):
                pictures.write(picture.tobytes())
                file = PurePosixPath(film.path)
                patient = _first_group(patient_rule, file.name)
                series = "" if patient else _first_group(series_rule, file.name)
                row = {
                    "path": film.path,
                    "label": film.label,
                    "subclass": film.subclass,
                    **facts,
                    "patient": patient,
                    "series": (file.parent / series).as_posix() if series else "",
                }
                for name, values in columns.items():
                    values.append(row[name])
                if progress:
                    progress(number + 1, len(films))
        index = pd.DataFrame(columns, columns=list(COLUMNS))
        _check_readable(root, index, classes if every_class else [], data.max_unreadable_fraction)
        pictures_NHW = read_thumbnails(pictures_file, index)
        return _with_copies(index, pictures_NHW, root, near=near_duplicates)


@contextmanager
def _new_file(path: Path | None) -> Iterator[Path]:
    """Where to write what is to be at ``path``, or only needed for now."""
    if path:
        with atomic_path(path) as temporary:
            yield temporary
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "thumbnails.npy"


def _with_copies(
    index: pd.DataFrame, pictures_NHW: Thumbnails, root: Path, *, near: bool
) -> pd.DataFrame:
    readable = np.flatnonzero(index["error"] == "")
    hashes = perceptual_hashes(pictures_NHW)[readable]
    phash, copies = np.full((2, len(index)), "", dtype=object)
    phash[readable] = [f"{value:016x}" for value in hashes.tolist()]
    # Films of the same bytes are known by their digest: one stands for all.
    sha256s = index["sha256"].to_numpy(dtype=str)[readable]
    names, first, film_of = np.unique(sha256s, return_index=True, return_inverse=True)
    films = index.iloc[readable[first]].reset_index(drop=True)
    thumbnails_NHW = pictures_NHW[readable[first]]
    links = [
        Link(same[0], other, 0.0)
        for same in same_pixels(films, thumbnails_NHW, root)
        for other in same[1:]
    ]
    if near:
        links += find_links(hashes[first], thumbnails_NHW)
    component = components(len(names), links)
    is_alone = np.bincount(component)[component] == 1
    smallest = pd.Series(names).groupby(component).transform("min").str[:16]
    copies[readable] = np.where(is_alone, "", smallest)[film_of]
    return index.assign(phash=phash.astype("str"), copies=copies.astype("str"))


def _first_group(rule: re.Pattern[str], name: str) -> str:
    found = rule.search(name)
    return (found[1] or "") if found else ""


def _inspect(root: Path, film: Film) -> tuple[dict[str, Any], Pixels]:
    """A film's columns and its thumbnail, black where it does not decode."""
    black = np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8)
    facts: dict[str, Any] = {"sha256": "", "width": 0, "height": 0, "mode": "", "format": ""}
    mask = PurePosixPath("masks", film.path).with_suffix(".png")
    facts |= {"mask": str(mask) if (root / mask).is_file() else "", "error": ""}
    facts |= {"jpeg_quality": 0, "chroma": 0.0}
    try:
        data = (root / film.path).read_bytes()
        facts["sha256"] = hashlib.sha256(data).hexdigest()
        with open_film(data) as image:
            (width, height), mode, kind = image.size, image.mode, image.format or ""
            quality = _jpeg_quality(image)
            picture, chroma = _picture_and_chroma(image)
    except OSError as error:
        return facts | {"error": error.strerror or type(error).__name__}, black
    except DataError as error:
        return facts | {"error": str(error)}, black
    facts |= {"width": width, "height": height, "mode": mode, "format": kind}
    return facts | {"jpeg_quality": quality, "chroma": chroma}, picture


def _picture_and_chroma(image: Image.Image) -> tuple[Pixels, float]:
    if image.mode in _GREY_MODES or image.mode.startswith(("I", "F")):
        return film_pixels(image, THUMBNAIL_PX, "grey"), 0.0
    colors_HWC = film_pixels(image, THUMBNAIL_PX, "rgb")
    chroma = float(np.ptp(colors_HWC, axis=-1).mean())
    return (colors_HWC @ _LUMA).round().astype(np.uint8), round(chroma, 2)


def _jpeg_quality(image: Image.Image) -> int:
    """1 to 100 as the IJG's encoder counts, from the luminance table; 0 for other formats.

    Below 30 the table's largest entries are cut off and the figure comes out too high.
    """
    tables: dict[int, list[int]] | None = getattr(image, "quantization", None)
    if not tables:
        return 0
    scale = 100 * sum(tables[min(tables)]) / _IJG_SUM
    return max(1, round(100 - scale / 2 if scale <= 100 else 5000 / scale))


def _check_readable(
    root: Path, index: pd.DataFrame, classes: list[str], max_unreadable_fraction: float
) -> None:
    damaged = unreadable_films(index)
    shown = "; ".join(f"{film['path']}: {film['error']}" for film in damaged[:_NUM_SHOWN])
    if len(damaged) > max_unreadable_fraction * len(index):
        raise DataError(
            f"{root}: {len(damaged)} of {len(index)} films cannot be decoded ({shown}); replace "
            "or remove them, or raise data.max_unreadable_fraction "
            f"(now {max_unreadable_fraction})"
        )
    if len(damaged) == len(index):
        raise DataError(f"{root}: not one film can be decoded ({shown}); replace them")
    readable = set(index.loc[index["error"] == "", "label"])
    for label in classes:
        if label not in readable:
            raise DataError(
                f"{root}: no film of class {label!r} can be decoded ({shown}); "
                f"replace them, or drop the class with labels.{label}=none"
            )


def write_index(index: pd.DataFrame, path: Path) -> None:
    write_table(path, index)


def read_index(path: Path) -> pd.DataFrame:
    """What ``write_index`` wrote; DataError where ``path`` is no such table."""
    types = {name: _TYPES.get(name, "str") for name in COLUMNS}
    try:
        index = pd.read_csv(path, dtype=types, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path}: cannot be read ({error}); index the films anew") from error
    if tuple(index.columns) != COLUMNS:
        raise DataError(
            f"{path}: has columns {', '.join(index.columns)} instead of {', '.join(COLUMNS)}; "
            "index the films anew"
        )
    return index


def data_digest(index: pd.DataFrame) -> str:
    """SHA-256 over the readable films' digests and labels, whatever their paths and order."""
    films = index[index["error"] == ""]
    rows = sorted((films["sha256"] + " " + films["label"] + "\n").tolist())
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def patient_summary(index: pd.DataFrame) -> dict[str, int]:
    """How many patients the readable films name, and how many of them stand in several classes.

    Also how many films name none.
    """
    films = index[index["error"] == ""]
    named = films[films["patient"] != ""]
    num_classes = named.groupby("patient")["label"].nunique()
    return {
        "count": len(num_classes),
        "in_several_classes": int((num_classes > 1).sum()),
        "films_without": len(films) - len(named),
    }


def unreadable_films(index: pd.DataFrame) -> list[dict[str, str]]:
    """``path`` and ``error`` of each film that does not decode."""
    damaged = index.loc[index["error"] != "", ["path", "error"]]
    return [{"path": path, "error": error} for path, error in damaged.itertuples(index=False)]
