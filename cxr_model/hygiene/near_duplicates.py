"""Films that show the same picture in other bytes: cropped, re-exposed, re-encoded, re-sized.

Candidates come from perceptual hashes. Those that are alike at a glance, on 8 x 8 means, are put
to the proof on the thumbnails. There a film is told from its copy by least squares: how much of
the one is left when the other, its powers (another exposure) and its shifts and stretches to
first order (another crop; Lucas & Kanade 1981) are taken out.

Measured on the 1,124 real films, each beside a copy cropped by 1 to 3 %, with gamma 0.85 to
1.18 and JPEG quality 60 to 91: a film is 0.002 from its copy at the median, 0.007 in one case of
a hundred and 0.017 at most, and more than 99.5 % of the copies are found. Of the
631,126 pairs of real films the nearest that are no copies (one patient, another day) are 0.028
apart, and of two patients 0.037: no false pair. One true pair came to light, 0.002 apart, in two
files of the COVID-19 films. Of the pairs 506 are candidates (8 in 10,000, which are 5 million
among 112,000 films), and 26 of these are alike at a glance.

Shape suffixes: P pairs, H and W pixels, K terms of the fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr_model.hygiene.candidates import near_hashes
from cxr_model.hygiene.thumbnails import Thumbnails, equalise, in_parts, is_blank

MAX_DISTANCE = 0.025
"""Share of a thumbnail's variance that may be left unexplained between a film and its copy."""
PLANTED = {"films": 1124, "recall": 0.995, "precision": 1.0}
"""What that threshold finds at least of real films' copies, cropped by 1 to 3 % with another gamma
and JPEG quality, and how many of the pairs found are such; a test holds it to that."""
METHOD = (
    "64-bit cosine hash of the equalised 32 x 32 thumbnail within 9 bits, confirmed by the share "
    "of variance left after a least-squares fit of exposure, shift and stretch"
)
_LEAST_CORRELATION = 0.8  # what the fit could never bring near enough is left out before it
_COARSE_PX = 8
_LEAST_COARSE_CORRELATION = 0.95  # the 1,123 copies that are found have 0.982 at least
_MARGIN = 2  # pixels at the edges, which a crop may have cut
_RIDGE = 1e-4
_CHUNK = 1024
_COARSE_CHUNK = 2**16

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Link:
    """Two films, by their places, and their distance (``MAX_DISTANCE`` at most)."""

    first: int
    second: int
    distance: float


def find_links(hashes_N: npt.NDArray[np.uint64], thumbnails_NHW: Thumbnails) -> list[Link]:
    """Links whose connected components are the near duplicates among N films.

    Nearest hashes are compared first, and films that hang together already are not compared
    again: there are fewer links than films. Blank films have none.
    """
    visible = np.flatnonzero(~is_blank(thumbnails_NHW))
    first, second, _ = near_hashes(hashes_N[visible])
    first, second = visible[first], visible[second]
    alike = alike_at_a_glance(thumbnails_NHW, first, second)
    first, second = first[alike], second[alike]
    component = np.arange(len(hashes_N))
    links: list[Link] = []
    for start in range(0, len(first), _CHUNK):
        left, right = first[start : start + _CHUNK], second[start : start + _CHUNK]
        apart = component[left] != component[right]
        left, right = left[apart], right[apart]
        distances = thumbnail_distances(thumbnails_NHW, left, right)
        near = np.flatnonzero(distances <= MAX_DISTANCE)
        if len(near):
            links += [Link(int(left[k]), int(right[k]), float(distances[k])) for k in near]
            component = _joined(component, left[near], right[near])
    return links


def alike_at_a_glance(
    thumbnails_NHW: Thumbnails, first_P: Places, second_P: Places
) -> npt.NDArray[np.bool_]:
    """Whether the 8 x 8 means of each pair of equalised thumbnails correlate by 0.95 or more.

    It costs less than a hundredth of `thumbnail_distances`, and spares most candidates that.
    """
    coarse_Nx = in_parts(_coarse_means, thumbnails_NHW)
    alike_P = np.zeros(len(first_P), dtype=bool)
    for start in range(0, len(first_P), _COARSE_CHUNK):
        chunk = slice(start, start + _COARSE_CHUNK)
        products = np.einsum("px,px->p", coarse_Nx[first_P[chunk]], coarse_Nx[second_P[chunk]])
        alike_P[chunk] = products >= _LEAST_COARSE_CORRELATION
    return alike_P


def _coarse_means(thumbnails_NHW: Thumbnails) -> npt.NDArray[np.float32]:
    """(N, 64) of mean 0 and length 1."""
    num_films, side = len(thumbnails_NHW), thumbnails_NHW.shape[-1] // _COARSE_PX
    blocks = equalise(thumbnails_NHW).reshape(num_films, _COARSE_PX, side, _COARSE_PX, side)
    coarse_Nx: npt.NDArray[np.float32] = blocks.mean(axis=(2, 4)).reshape(num_films, -1)
    coarse_Nx -= coarse_Nx.mean(axis=1, keepdims=True)
    coarse_Nx /= np.maximum(np.linalg.norm(coarse_Nx, axis=1, keepdims=True), 1e-6)
    return coarse_Nx


def components(num_films: int, links: Sequence[Link]) -> Places:
    """A number for each film (N,); films that links join, also through others, have the same."""
    ends = np.array([(link.first, link.second) for link in links], dtype=np.int64).reshape(-1, 2)
    return _joined(np.arange(num_films), *ends.T)


def _joined(component_N: Places, first_P: Places, second_P: Places) -> Places:
    """The components when pairs of films are joined too."""
    ends = (component_N[first_P], component_N[second_P])
    edges = coo_array((np.ones(len(first_P)), ends), shape=(len(component_N),) * 2)
    joined: Places = connected_components(edges, directed=False)[1].astype(np.int64)
    return joined[component_N]


def thumbnail_distances(
    thumbnails_NHW: Thumbnails, first_P: Places, second_P: Places
) -> npt.NDArray[np.float64]:
    """0 (the same picture) to 1 for each pair of places; either film may be the cropped one."""
    distances_P = np.ones(len(first_P))
    for start in range(0, len(first_P), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        first = equalise(thumbnails_NHW[first_P[chunk]])
        second = equalise(thumbnails_NHW[second_P[chunk]])
        alike = np.flatnonzero(_correlations(first, second) >= _LEAST_CORRELATION)
        first, second = first[alike], second[alike]
        both = np.minimum(_unexplained(first, second), _unexplained(second, first))
        distances_P[start + alike] = both
    return distances_P


def _correlations(
    first_PHW: npt.NDArray[np.float32], second_PHW: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    product_P = np.einsum("phw,phw->p", first_PHW, second_PHW)
    square_P = np.einsum("phw,phw->p", first_PHW, first_PHW) * np.einsum(
        "phw,phw->p", second_PHW, second_PHW
    )
    correlations: npt.NDArray[np.float32] = product_P / np.sqrt(np.maximum(square_P, 1e-12))
    return correlations


def _unexplained(
    given_PHW: npt.NDArray[np.float32], target_PHW: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Share of the target's variance that is left after the fit, (P,)."""
    ramp = np.linspace(-1, 1, given_PHW.shape[-1], dtype=np.float32)
    down: npt.NDArray[np.float32] = np.asarray(np.gradient(given_PHW, axis=1))
    across: npt.NDArray[np.float32] = np.asarray(np.gradient(given_PHW, axis=2))
    terms: list[npt.NDArray[np.float32]]
    terms = [np.ones_like(given_PHW), given_PHW, given_PHW**2, given_PHW**3]
    terms += [across, down, across * ramp, down * ramp[:, None]]
    inner = slice(_MARGIN, -_MARGIN)
    flat = (len(given_PHW), (given_PHW.shape[1] - 2 * _MARGIN) * (given_PHW.shape[2] - 2 * _MARGIN))
    terms_PKx = np.stack([t[:, inner, inner].reshape(flat) for t in terms], axis=1)
    target_Px = target_PHW[:, inner, inner].reshape(flat)
    normal_PKK = terms_PKx @ terms_PKx.transpose(0, 2, 1) + _RIDGE * np.eye(
        len(terms), dtype=np.float32
    )
    right_PK1 = terms_PKx @ target_Px[..., None]
    weights_PK1 = np.linalg.solve(normal_PKK, right_PK1)
    left_Px = target_Px - (weights_PK1.transpose(0, 2, 1) @ terms_PKx)[:, 0]
    variance_P = target_Px.var(axis=1)
    share: npt.NDArray[np.float32] = (left_Px**2).mean(axis=1) / np.maximum(variance_P, 1e-6)
    return share
