"""Which films are copies of which: by bytes, by decoded pixels, by what they show."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_model.cache import Pixels, open_film
from cxr_model.errors import DataError
from cxr_model.hygiene.near_duplicates import Places, thumbnail_distances

_MOST_COMPARED = 40  # films of one group whose distances are all taken


@dataclass(frozen=True)
class Copies:
    """Groups of paths, the largest first."""

    by_bytes: list[list[str]]
    by_pixels: list[list[str]]
    """Other bytes, the same pixels."""
    near: list[tuple[list[str], float]]
    """Other pixels too, and the distance of the two that are least alike."""

    @property
    def num_near(self) -> int:
        return sum(len(paths) for paths, _ in self.near)


def same_pixels(films: pd.DataFrame, thumbnails_NHW: Pixels, root: Path) -> list[list[int]]:
    """Groups of row labels of ``films`` (readable, each of other bytes) with the same pixels.

    Films of one size are decoded whole where their thumbnails are equal, blank ones too. JPEGs
    are decoded small for theirs and come out a little different, so where files of one size are
    partly JPEGs all of them are. Raises ``DataError`` where one cannot be any more.
    """
    size = [films["width"], films["height"]]
    digests = [hashlib.sha256(picture).digest() for picture in thumbnails_NHW]
    pictures = pd.Series(digests, films.index)
    is_equal = pictures.groupby([*size, pictures]).transform("size") > 1
    is_mixed = (films["jpeg_quality"] > 0).groupby(size).transform("nunique") > 1
    return _group_by_pixels(films[is_equal | is_mixed], root)


def _group_by_pixels(films: pd.DataFrame, root: Path) -> list[list[int]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(_pixel_digest, [root / path for path in films["path"]]))
    groups = films.groupby(["width", "height", np.array(digests, dtype=str)]).groups
    return [rows.tolist() for rows in groups.values() if len(rows) > 1]


def find_copies(films: pd.DataFrame, thumbnails_NHW: Pixels, root: Path) -> Copies:
    """Copies among the readable ``films`` of an index, whose ``copies`` have been found there.

    Only films that may be equal in their pixels, of one size and one group of copies, are
    decoded whole. Raises ``DataError`` where one cannot be any more.
    """
    rows = films.reset_index(drop=True)
    firsts = rows.drop_duplicates("sha256")
    grouped = firsts[firsts["copies"] != ""]
    pixel_groups, near = [], []
    for _, members in grouped.groupby("copies"):
        is_of_size = members.duplicated(["width", "height"], keep=False)
        equal = _group_by_pixels(members[is_of_size], root)
        pixel_groups += [members.loc[same, "path"].tolist() for same in equal]
        if len(equal) != 1 or len(equal[0]) < len(members):
            places = members.index.to_numpy()
            near.append((members["path"].tolist(), _widest(thumbnails_NHW, places)))
    by_bytes = [same["path"].tolist() for _, same in rows.groupby("sha256") if len(same) > 1]
    return Copies(
        sorted(by_bytes, key=_order),
        sorted(pixel_groups, key=_order),
        sorted(near, key=lambda group: _order(group[0])),
    )


def _order(paths: list[str]) -> tuple[int, list[str]]:
    return -len(paths), paths


def _pixel_digest(path: Path) -> str:
    """Of the grey levels as stored, whatever the file's format and mode."""
    try:
        with open_film(path.read_bytes()) as image:
            grey = image if image.mode.startswith(("I", "F")) else image.convert("L")
            return hashlib.sha256(np.asarray(grey).tobytes()).hexdigest()
    except (DataError, OSError) as error:
        raise DataError(
            f"{path.name}: is not as indexed ({error}); index the films anew"
        ) from error


def _widest(thumbnails_NHW: Pixels, places: Places) -> float:
    pairs = np.array(list(combinations(places[:_MOST_COMPARED].tolist(), 2)))
    return round(float(thumbnail_distances(thumbnails_NHW, pairs[:, 0], pairs[:, 1]).max()), 5)


def label_conflicts(films: pd.DataFrame, copies: Copies) -> list[dict[str, Any]]:
    """Groups of copies that stand in several classes, each told once, by the closest kind."""
    label_of = dict(zip(films["path"], films["label"], strict=True))
    kinds = [("bytes", copies.by_bytes), ("pixels", copies.by_pixels)]
    kinds.append(("near", [paths for paths, _ in copies.near]))
    told: set[str] = set()
    conflicts = []
    for kind, groups in kinds:
        for paths in groups:
            labels = sorted({label_of[path] for path in paths})
            if len(labels) > 1 and not told.issuperset(paths):
                conflicts.append({"paths": paths, "labels": labels, "kind": kind})
                told.update(paths)
    return conflicts
