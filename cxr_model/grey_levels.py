"""Grey levels of any depth as 8 bits, by one rule for every file format."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.errors import DataError

_BIT_DEPTHS = (8, 10, 12, 14, 16, 31)  # Pillow's widest is a signed 32-bit integer


def to_8_bits(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Levels scaled to 0 to 255, whatever their shape.

    Whole levels from 0 up are scaled by the smallest usual bit depth that holds them, as
    12-bit films often come in 16-bit files; negative and float levels by their own range.
    Raises DataError for levels that are no numbers.
    """
    low, high = float(levels.min()), float(levels.max())
    if not np.isfinite([low, high]).all():
        raise DataError("grey levels that are no numbers")
    if np.issubdtype(levels.dtype, np.integer) and low >= 0:
        low, high = 0.0, next(2.0**bits - 1 for bits in _BIT_DEPTHS if high < 2.0**bits)
    scaled = (levels.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    return scaled.round().astype(np.uint8)
