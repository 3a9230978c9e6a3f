"""Forecasts whose truth is known: the outcomes are drawn from the probabilities themselves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.reliability.calibration import temper

Array = NDArray[Any]


def draw_forecasts(
    generator: np.random.Generator,
    num_groups: int,
    *,
    films_per_group: int = 1,
    temperature: float = 1.0,
    num_classes: int = 3,
) -> tuple[Array, Array, Array, Array]:
    """Class indices, stated and true probabilities (N, C) and groups.

    The films of a group are alike. Stated are the true ones at ``temperature``: below 1 they
    are overconfident, and tempering with its reciprocal mends them.
    """
    logits = 1.5 * generator.normal(size=(num_groups, num_classes))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = generator.random(num_groups)[:, None] > true.cumsum(axis=1)[:, :-1]
    groups = np.repeat(np.arange(num_groups), films_per_group)
    return drawn.sum(axis=1)[groups], temper(true, temperature)[groups], true[groups], groups
