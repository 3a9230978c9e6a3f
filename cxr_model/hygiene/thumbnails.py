"""A film's small picture, on which the look at the films goes by.

Shape suffixes: N films, H and W (32) pixels of a thumbnail.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_model.errors import DataError

THUMBNAIL_PX = 32
BLANK_STD = 4.0
"""Grey levels; a thumbnail that varies less shows nothing that could be recognised."""
_FILMS_AT_ONCE = 1024

Thumbnails = NDArray[np.uint8]
"""(N, H, W) grey levels."""
_Found = TypeVar("_Found", bound=np.generic)


def write_header(file: BinaryIO, num_films: int) -> None:
    """What stands in a NumPy file before the films, whose bytes follow one by one."""
    shape = (num_films, THUMBNAIL_PX, THUMBNAIL_PX)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def read_thumbnails(path: Path, index: pd.DataFrame) -> Thumbnails:
    """Those of all films of ``index``, mapped; DataError where the file is not of these films."""
    try:
        thumbnails_NHW: Thumbnails = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); index the films anew") from error
    if len(thumbnails_NHW) != len(index):
        raise DataError(
            f"{path}: holds {len(thumbnails_NHW)} films, the index {len(index)}; "
            "index the films anew"
        )
    return thumbnails_NHW


def in_parts(
    look: Callable[[Thumbnails], NDArray[_Found]], thumbnails_NHW: Thumbnails
) -> NDArray[_Found]:
    """What ``look`` finds on 1,024 films at a time, part after part; one film at least.

    A look at all of them would hold up to 20 kB a film, twenty times the films themselves.
    """
    size = _FILMS_AT_ONCE
    starts = range(0, len(thumbnails_NHW), size)
    return np.concatenate([look(thumbnails_NHW[start : start + size]) for start in starts])


def is_blank(thumbnails_NHW: Thumbnails) -> NDArray[np.bool_]:
    """Whether each film's thumbnail has (nearly) one grey level (N,)."""
    spread_N: NDArray[np.float64] = in_parts(lambda films: films.std(axis=(1, 2)), thumbnails_NHW)
    return spread_N < BLANK_STD


def equalise(thumbnails_NHW: Thumbnails) -> NDArray[np.float32]:
    """Each grey level's rank among the film's own, from -0.5 to 0.5; equal levels share theirs.

    Gamma, window and brightness change no rank.
    """
    films_NP = thumbnails_NHW.reshape(len(thumbnails_NHW), -1)
    rows_N1 = np.arange(len(films_NP))[:, None]
    counts = np.bincount((256 * rows_N1 + films_NP).ravel(), minlength=256 * len(films_NP))
    counts_NG = counts.reshape(-1, 256)
    ranks_NG = (counts_NG.cumsum(axis=1) - counts_NG / 2) / films_NP.shape[1] - 0.5
    ranks = ranks_NG.astype(np.float32)[rows_N1, films_NP]
    return ranks.reshape(thumbnails_NHW.shape)
