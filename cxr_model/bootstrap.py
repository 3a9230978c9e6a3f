"""Many figures of the same films on the same bootstrap draws, so that differences are paired.

Shape suffixes: N films, C classes, R means, B draws.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.intervals import (
    Estimate,
    Figure,
    bootstrap_weights,
    count_groups,
    mean_of_rates,
    ratio,
)

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bootstrap:
    """The truth of a set of films, and the draws that every figure of them is taken on."""

    truth_N: Array
    """Class numbers."""
    groups_N: Array
    num_classes: int
    draws: int
    seed: int

    @property
    def chance(self) -> float:
        return 1 / self.num_classes

    def balanced_accuracy(self, called_NC: Array) -> Figure:
        return self.class_mean(called_NC[np.arange(len(self.truth_N)), self.truth_N])

    def class_mean(self, hit_N: Array) -> Figure:
        """The mean over classes of the rate of hits among their films."""
        member_CN = self.truth_N == np.arange(self.num_classes)[:, None]
        return self.mean_rate(np.tile(hit_N, (self.num_classes, 1)), member_CN)

    def one_against_rest(self, called_NC: Array, label: int) -> Figure:
        """Mean of one class's sensitivity and specificity (chance: 0.5)."""
        is_label = self.truth_N == label
        called_N = called_NC[:, label]
        return self.mean_rate(np.stack([called_N, 1 - called_N]), np.stack([is_label, ~is_label]))

    def mean_rate(self, hits_RN: Array, member_RN: Array) -> Figure:
        """The mean of the rates of hits among the films of each row."""
        return mean_of_rates(
            *self.means(hits_RN, member_RN), count_groups(self.groups_N, member_RN)
        )

    def means(self, values_RN: Array, member_RN: Array) -> tuple[Array, Array]:
        """Means (R,) over the films of each row of ``member_RN``, and their draws (R, B).

        NaN where a row, or its share of a draw, holds no film.
        """
        num_films = len(self.truth_N)
        generator = np.random.default_rng(self.seed)
        member_RN = member_RN.astype(np.float64)
        weights = chain(
            [np.ones((num_films, 1))], bootstrap_weights(self.groups_N, self.draws, generator)
        )
        parts = [
            ratio((values_RN * member_RN) @ weights_NB, member_RN @ weights_NB)
            for weights_NB in weights
        ]
        return parts[0][:, 0], np.concatenate(parts[1:], axis=1)

    def estimate(self, figure: Figure, n: int | None = None) -> Estimate:
        return figure.estimate(len(self.truth_N) if n is None else n)
