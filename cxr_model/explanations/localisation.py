"""How much of a map lies where medical evidence can lie: in the lungs, in the lesion."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def energy_inside(maps_NHW: NDArray[np.float32], masks_NHW: Mask) -> NDArray[np.float64]:
    """Share of each map's positive part that lies in its mask, (N,); 0 for a map without any.

    The energy-based pointing game of Wang et al. 2020 (Score-CAM, arXiv:1910.01279).
    """
    positive = np.maximum(maps_NHW, 0).astype(np.float64)
    total = positive.sum(axis=(1, 2))
    inside = (positive * masks_NHW).sum(axis=(1, 2))
    return np.asarray(inside / np.where(total > 0, total, 1))


def peaks_inside(maps_NHW: NDArray[np.float32], masks_NHW: Mask) -> Mask:
    """The pointing game: for each film, whether its map's highest point lies in its mask.

    Zhang et al. 2018, arXiv:1608.00507. A map that is zero everywhere points nowhere.
    """
    flat = maps_NHW.reshape(len(maps_NHW), -1)
    peaks = flat.argmax(axis=1)
    inside = masks_NHW.reshape(len(masks_NHW), -1)[np.arange(len(flat)), peaks]
    return cast(Mask, inside & (flat.max(axis=1) > 0))
