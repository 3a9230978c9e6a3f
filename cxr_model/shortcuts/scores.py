"""What a probe gave on each holdout film, and the figures drawn from that.

All probes and the model are judged on the same bootstrap draws of the same groups, so their
differences are paired. Shape suffixes: N holdout films, C classes, R means, B draws.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxr_model.metrics import Estimate, bootstrap_weights, estimate_from_draws

Array = NDArray[Any]
Evidence = Literal["no lung", "lung", "both"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """One way to tell the classes, with the evidence that it was given."""

    name: str
    title: str
    evidence: Evidence
    how: str
    """One sentence: who judged, and what was seen."""
    called_NC: Array
    """Share of its passes in which it called each film each class; rows sum to one."""
    by_network: bool = False
    """The run's own network as it is, not one fitted to the probe's films."""


def one_hot(classes_N: Array, num_classes: int) -> Array:
    """Class numbers (N,) to what a `Probe` of a single pass says (N, C)."""
    return np.eye(num_classes)[classes_N]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """The holdout's truth, and the draws that every figure is taken on."""

    truth_N: Array
    """Class numbers."""
    groups_N: Array
    num_classes: int
    draws: int
    seed: int

    @property
    def chance(self) -> float:
        return 1 / self.num_classes

    def balanced_accuracy(self, called_NC: Array) -> tuple[float, Array]:
        """The value and its draws (B,)."""
        hit_N = called_NC[np.arange(len(self.truth_N)), self.truth_N]
        return self.class_mean(hit_N)

    def class_mean(self, values_N: Array) -> tuple[float, Array]:
        """The mean over classes of the mean over their films, and its draws (B,)."""
        member_CN = self.truth_N == np.arange(self.num_classes)[:, None]
        point_C, drawn_CB = self.means(np.tile(values_N, (self.num_classes, 1)), member_CN)
        return float(point_C.mean()), drawn_CB.mean(axis=0)

    def one_against_rest(self, called_NC: Array, label: int) -> tuple[float, Array]:
        """Mean of one class's sensitivity and specificity (chance: 0.5), and its draws (B,)."""
        is_label = self.truth_N == label
        called_N = called_NC[:, label]
        point_2, drawn_2B = self.means(
            np.stack([called_N, 1 - called_N]), np.stack([is_label, ~is_label])
        )
        return float(point_2.mean()), drawn_2B.mean(axis=0)

    def means(self, values_RN: Array, member_RN: Array) -> tuple[Array, Array]:
        """Means (R,) over the films of each row of ``member_RN``, and their draws (R, B).

        NaN where a row, or its share of a draw, holds no film.
        """
        num_films = len(self.truth_N)
        generator = np.random.default_rng(self.seed)
        member_RN = member_RN.astype(np.float64)
        weights = [np.ones((num_films, 1)), *self._weights(generator)]
        parts = [
            _ratio((values_RN * member_RN) @ weights_NB, member_RN @ weights_NB)
            for weights_NB in weights
        ]
        return parts[0][:, 0], np.concatenate(parts[1:], axis=1)

    def _weights(self, generator: np.random.Generator) -> list[Array]:
        return list(bootstrap_weights(self.groups_N, self.draws, generator))

    def estimate(self, figure: tuple[float, Array], n: int | None = None) -> Estimate:
        return estimate_from_draws(*figure, len(self.truth_N) if n is None else n)


def _ratio(numerator: Array, denominator: Array) -> Array:
    nothing = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator > 0)
