"""The table of a data set: a row a film, with what its file says and whether it decodes."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from cxr_model.cache import Progress, film_pixels, open_film
from cxr_model.data_config import DataConfig, LabelConfig
from cxr_model.errors import DataError
from cxr_model.labels import Film, find_films
from cxr_model.run_folder import write_table

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
)
_NOTHING = r"(?!)()"  # an expression that never matches
_NUMBERS = ("width", "height")
_NUM_SHOWN = 3
# Small enough for JPEG's coarsest scale, which still reads every byte and notices a torn end.
_CHECK_PX = 32


def build_index(
    root: Path,
    data: DataConfig,
    labels: LabelConfig,
    *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """One row (``COLUMNS``) for each film below ``root``, sorted by path.

    ``width`` and ``height`` are the stored pixels, before any EXIF turn. A film that does not
    decode keeps its row, with the reason in ``error``. ``mask`` is ``masks/<path>.png`` where
    that file exists.

    Raises DataError as ``find_films`` does, and where more than
    ``data.max_unreadable_fraction`` of the films or all films of a class do not decode.
    """
    patient_rule = re.compile(data.patient_pattern or _NOTHING)
    series_rule = re.compile(data.series_pattern or _NOTHING, re.IGNORECASE)
    films, classes = find_films(root, labels)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow and hashlib let go of the GIL
        for film, facts in zip(films, pool.map(lambda f: _inspect(root, f), films), strict=True):
            file = PurePosixPath(film.path)
            patient = _first_group(patient_rule, file.name)
            series = "" if patient else _first_group(series_rule, file.name)
            rows.append(
                {
                    "path": film.path,
                    "label": film.label,
                    "subclass": film.subclass,
                    **facts,
                    "patient": patient,
                    "series": (file.parent / series).as_posix() if series else "",
                }
            )
            if progress:
                progress(len(rows), len(films))
    index = pd.DataFrame(rows, columns=list(COLUMNS))
    _check_readable(root, index, classes, data.max_unreadable_fraction)
    return index


def _first_group(rule: re.Pattern[str], name: str) -> str:
    found = rule.search(name)
    return (found[1] or "") if found else ""


def _inspect(root: Path, film: Film) -> dict[str, Any]:
    facts: dict[str, Any] = {"sha256": "", "width": 0, "height": 0, "mode": "", "format": ""}
    mask = PurePosixPath("masks", film.path).with_suffix(".png")
    facts |= {"mask": str(mask) if (root / mask).is_file() else "", "error": ""}
    try:
        data = (root / film.path).read_bytes()
        facts["sha256"] = hashlib.sha256(data).hexdigest()
        with open_film(data) as image:
            (width, height), mode, kind = image.size, image.mode, image.format or ""
            film_pixels(image, _CHECK_PX, "grey")
    except OSError as error:
        return facts | {"error": error.strerror or type(error).__name__}
    except DataError as error:
        return facts | {"error": str(error)}
    return facts | {"width": width, "height": height, "mode": mode, "format": kind}


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
    types = {name: "int64" if name in _NUMBERS else "str" for name in COLUMNS}
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
