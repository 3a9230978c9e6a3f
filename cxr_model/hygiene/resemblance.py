"""Films that look unlike the rest: negatives, films on their head or side, no radiographs at all.

Every film is held against the set's common picture, the median of its equalised thumbnails,
shifted by a few pixels. Nothing is judged where the films have no common picture.

Measured on 1,124 real films: of their negatives 99.6 % are found, of films turned by 90, 180 or
270 degrees 98 to 99 %, and of 400 cuttings of photographs 85 %. Of the films themselves none is
taken for a negative, three are told as turned (one of them stands on its head) and three as
unlike the others.

Shape suffixes: N films, H and W pixels, S shifts, x pixels within a window.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_model.hygiene.thumbnails import Thumbnails, equalise, in_parts

LEAST_LIKENESS = 0.4
"""Correlation with the common picture, of at most 1."""
LEAST_GAIN = 0.2
"""What a film must gain by being inverted or turned to be called so."""
LEAST_COMMON = 0.5
"""Median likeness of a set that has a common picture."""
LEAST_FILMS = 20
_EDGE = 5  # pixels left out on each side; collimators and markers lie there
_FOR_COMMON = 4096  # films at most whose median is the common picture, evenly out of all
_SHIFTS = (-4, -2, 0, 2, 4)


@dataclass(frozen=True)
class Resemblance:
    """Of N films to their set's common picture; masks over the films."""

    median: float
    """Likeness of the median film; 0 where there are too few films to tell."""
    inverted: NDArray[np.bool_]
    turned: NDArray[np.bool_]
    unlike: NDArray[np.bool_]


def find_unlike(thumbnails_NHW: Thumbnails) -> Resemblance:
    """Each film counts once: as inverted, turned or unlike, whichever explains it first."""
    none = np.zeros(len(thumbnails_NHW), dtype=bool)
    if len(thumbnails_NHW) < LEAST_FILMS:
        return Resemblance(0.0, none, none, none)
    inner = slice(_EDGE, -_EDGE)
    step = -(-len(thumbnails_NHW) // _FOR_COMMON)
    common_x = np.median(equalise(thumbnails_NHW[::step])[:, inner, inner], axis=0).ravel()

    def likeness(part_NHW: Thumbnails) -> NDArray[np.float32]:
        """Of the film, of its negative and of the film turned, (N, 3)."""
        films_NHW = equalise(part_NHW)
        upright, negative = _likeness(films_NHW, common_x)
        quarters = [np.rot90(films_NHW, turns, axes=(1, 2)) for turns in (1, 2, 3)]
        turned = np.max([_likeness(turned_NHW, common_x)[0] for turned_NHW in quarters], axis=0)
        return np.stack([upright, negative, turned], axis=1)

    upright, negative, turned = in_parts(likeness, thumbnails_NHW).T
    median = float(np.median(upright))
    if median < LEAST_COMMON:
        return Resemblance(median, none, none, none)
    best = np.maximum(negative, turned)
    is_other = best - upright > LEAST_GAIN
    is_inverted = is_other & (negative > turned) & (negative >= LEAST_LIKENESS)
    is_turned = is_other & ~is_inverted & (turned >= LEAST_LIKENESS)
    unlike = (upright < LEAST_LIKENESS) & ~is_inverted & ~is_turned
    return Resemblance(median, is_inverted, is_turned, unlike)


def _likeness(
    films_NHW: NDArray[np.float32], common_x: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlation with the common picture (N,), of the film and of its negative: best shift."""
    centred_x = common_x - common_x.mean()
    centred_x = centred_x / max(float(np.linalg.norm(centred_x)), 1e-6)
    side = films_NHW.shape[-1] - 2 * _EDGE
    corners = [(_EDGE + down, _EDGE + across) for down in _SHIFTS for across in _SHIFTS]
    scores_NS = np.empty((len(films_NHW), len(corners)), dtype=np.float32)
    for number, (top, left) in enumerate(corners):
        window_Nx = films_NHW[:, top : top + side, left : left + side].reshape(len(films_NHW), -1)
        spread_N = np.maximum(window_Nx.std(axis=1), 1e-6) * np.sqrt(window_Nx.shape[1])
        scores_NS[:, number] = window_Nx @ centred_x / spread_N
    return scores_NS.max(axis=1), -scores_NS.min(axis=1)
