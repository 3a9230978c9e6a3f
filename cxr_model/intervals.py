"""95 % intervals of figures, by whole groups of films.

The interval is a percentile bootstrap over groups (Efron & Tibshirani 1993, ch. 13): whole
groups, a patient's films for one, are drawn with replacement, because films of one group
are not independent. A draw is a vector of film weights, so one weighted formula gives the
point value (all weights one) and all draws at once. Draws of few groups, or of a rate near 0
or 1, stray too little: no interval of a rate is narrower than Wilson's with groups for trials
(`mean_of_rates`), and what is made of rates that are 0 or 1, or of a ranking without fault, is
widened by as much (`certain_slack`).

Shape suffixes: N films, B bootstrap draws, R rates.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_model.errors import DataError

Array = NDArray[Any]
Estimate = dict[str, Any]
_Z = NormalDist().inv_cdf(0.975)
_CHUNK_BYTES = 16 * 2**20  # of one films x draws array; a handful of them live at once


def proportion_interval(successes: int, n: int) -> Estimate:
    """A share of ``n`` independent trials with Wilson's 95 % interval (Wilson 1927)."""
    if not 0 <= successes <= n:
        raise DataError(f"successes={successes}: use 0 to n ({n})")
    if n == 0:
        return make_estimate(math.nan, math.nan, math.nan, 0)
    (low,), (high,) = _wilson_interval(np.array([successes / n]), np.array([n]))
    return make_estimate(successes / n, low, high, n)


def _wilson_interval(rates_R: Array, trials_R: Array) -> tuple[Array, Array]:
    """Lower and upper ends (R,); NaN without trials. Successes need not be whole numbers."""
    square_R = ratio(np.full(len(rates_R), _Z**2), np.asarray(trials_R, dtype=np.float64))
    middle_R = (rates_R + square_R / 2) / (1 + square_R)
    half_R = np.sqrt(rates_R * (1 - rates_R) * square_R + square_R**2 / 4) / (1 + square_R)
    # The formula gives 0 and 1 for these, but for rounding.
    low_R = np.where(rates_R == 0, 0.0, middle_R - half_R)
    return low_R, np.where(rates_R == 1, 1.0, middle_R + half_R)


Slack = tuple[float, float]
"""How much farther an interval reaches below and above than the draws say; added as squares."""


class Figure(NamedTuple):
    """A figure, its draws (B,), and what they say too little of."""

    value: float
    drawn_B: Array
    slack: Slack
    """Of the figure by itself."""
    certain: Slack
    """Of a difference to another figure on the same draws, which hold what both have in common:
    only rates of 0 or 1 add to that."""

    def less(self, other: "Figure") -> "Figure":
        """The difference, draw by draw."""
        slack = difference_slack(self.certain, other.certain)
        return Figure(self.value - other.value, self.drawn_B - other.drawn_B, slack, slack)

    def estimate(self, n: int) -> Estimate:
        return widen(estimate_from_draws(self.value, self.drawn_B, n), self.slack)


def mean_of_rates(rates_R: Array, drawn_RB: Array, num_groups_R: Array) -> Figure:
    """The mean of rates of films of ``num_groups_R`` groups each.

    Of a single rate the interval is the wider of the bootstrap's and Wilson's, end by end, with
    groups for trials: draws of few groups, or of a rate near 0 or 1, stray too little, and where
    all groups are alike not at all.
    """
    ends_R2 = np.apply_along_axis(percentile_interval, -1, drawn_RB)
    return Figure(
        float(rates_R.mean()),
        drawn_RB.mean(axis=0),
        _rate_slack(rates_R, num_groups_R, ends_R2),
        certain_slack(rates_R, num_groups_R),
    )


def rate_figure(value: float, drawn_B: Array, groups_N: Array) -> Figure:
    """A share of films, whose groups are (N,), as `mean_of_rates` has it."""
    num_groups = np.array([len(np.unique(groups_N))])
    return mean_of_rates(np.array([value]), drawn_B[None], num_groups)


def rate_estimate(value: float, drawn_B: Array, groups_N: Array) -> Estimate:
    return rate_figure(value, drawn_B, groups_N).estimate(len(groups_N))


def share_estimate(is_so_N: Array, groups_N: Array, *, draws: int, seed: int) -> Estimate:
    """Share of films that are so (N,) as `rate_estimate` has it; of no films undefined."""
    if len(is_so_N) == 0:
        return make_estimate(math.nan, math.nan, math.nan, 0)
    values_N = np.asarray(is_so_N, dtype=np.float64)
    points, drawn = draw_figures(
        lambda weights_NB: {"share": values_N @ weights_NB / weights_NB.sum(axis=0)},
        groups_N,
        draws=draws,
        seed=seed,
    )
    return rate_estimate(float(points["share"]), drawn["share"], groups_N)


def wilson_slack(rates_R: Array, num_groups_R: Array) -> Slack:
    """The slack of a mean of rates whose draws do not stray at all: Wilson's intervals alone."""
    return _rate_slack(rates_R, num_groups_R, np.stack([rates_R, rates_R], axis=-1))


def certain_slack(rates_R: Array, num_groups_R: Array) -> Slack:
    """The slack of a mean of rates by those alone that are 0 or 1, the same in every draw."""
    low_R, high_R = _wilson_interval(rates_R, num_groups_R)
    is_certain_R = np.isin(rates_R, (0.0, 1.0))
    ends_R2 = np.stack([np.where(is_certain_R, rates_R, end_R) for end_R in (low_R, high_R)], -1)
    return _rate_slack(rates_R, num_groups_R, ends_R2)


def _rate_slack(rates_R: Array, num_groups_R: Array, ends_R2: Array) -> Slack:
    """What the ends of the draws' intervals lack to Wilson's, of a mean of independent rates.

    Slacks of several rates are added as squares, as independent limits are (Zou & Donner
    2008); NaN rates have none.
    """
    wilson_R2 = np.stack(_wilson_interval(rates_R, num_groups_R), axis=-1)
    squares_R2 = (wilson_R2 - rates_R[:, None]) ** 2 - (ends_R2 - rates_R[:, None]) ** 2
    below, above = np.sqrt(np.nansum(np.maximum(squares_R2, 0.0), axis=0)) / len(rates_R)
    return float(below), float(above)


def difference_slack(first: Slack, second: Slack) -> Slack:
    """What lowers the first lowers the difference, and what lowers the second raises it."""
    return math.hypot(first[0], second[1]), math.hypot(first[1], second[0])


def widen(
    estimate: Estimate, slack: Iterable[float], within: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The estimate with a slack added to its interval, as squares, up to the figure's bounds."""
    value = estimate["value"]
    if value is None:
        return estimate
    below, above = slack
    return estimate | {
        "ci_low": max(within[0], value - math.hypot(value - estimate["ci_low"], below)),
        "ci_high": min(within[1], value + math.hypot(estimate["ci_high"] - value, above)),
    }


def faultless_slack(value: float, *num_groups: int) -> tuple[float, float]:
    """The slack of an area under a curve, which draws alone would take for certain at 0 and 1.

    Of a ranking without fault some threshold has none either: the area is taken to be as
    uncertain as the mean of two rates there, of as many groups each as ``num_groups`` says
    (sensitivity and specificity for AUROC, sensitivity and PPV for AUPRC).
    """
    if value not in (0.0, 1.0):
        return 0.0, 0.0
    return certain_slack(np.full(len(num_groups), value), np.array(num_groups))


def count_groups(groups_N: Array, member_RN: Array) -> Array:
    """Distinct groups (R,) among the films of each row."""
    return np.array([len(np.unique(groups_N[member_N])) for member_N in member_RN], dtype=int)


def draw_figures(
    figures: Callable[[Array], dict[str, Array]], groups_N: Array, *, draws: int, seed: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Points and bootstrap draws of weighted figures.

    ``figures`` gets film weights (N, B) and returns arrays whose last axis is B. The points
    are those of all weights one, without that axis. One seed gives one set of draws, whatever
    the figures: those of several calls are paired.
    """
    chunks = [
        figures(weights_NB)
        for weights_NB in bootstrap_weights(groups_N, draws, np.random.default_rng(seed))
    ]
    points = {name: value[..., 0] for name, value in figures(np.ones((len(groups_N), 1))).items()}
    drawn = {name: np.concatenate([chunk[name] for chunk in chunks], axis=-1) for name in points}
    return points, drawn


def estimate_from_draws(value: float, drawn_B: Array, n: int) -> Estimate:
    """A figure with the percentile interval of its bootstrap draws; undefined draws left out."""
    ci_low, ci_high = percentile_interval(drawn_B)
    return make_estimate(value, ci_low, ci_high, n)


def format_estimate(estimate: Estimate) -> str:
    """``0.893 (0.85–0.93)``, ``-0.031 (-0.08 to 0.02)`` with a sign in it, or ``undefined``.

    Undefined is what there was nothing to compute on.
    """
    if estimate["value"] is None:
        return "undefined"
    low, high = f"{estimate['ci_low']:z.2f}", f"{estimate['ci_high']:z.2f}"
    to = " to " if low.startswith("-") else "–"  # a dash before a minus sign is hard to read
    return f"{estimate['value']:z.3f} ({low}{to}{high})"


def bootstrap_weights(
    groups_N: Array, draws: int, generator: np.random.Generator
) -> Iterator[Array]:
    """Chunks (N, B) of film weights: how often the film's group came up in each draw."""
    names, group_N = np.unique(groups_N, return_inverse=True)
    num_groups = len(names)
    chunk = max(1, _CHUNK_BYTES // (8 * len(groups_N)))
    for start in range(0, draws, chunk):
        num = min(chunk, draws - start)
        picks = generator.integers(num_groups, size=(num, num_groups))
        picks += num_groups * np.arange(num)[:, None]
        counts = np.bincount(picks.ravel(), minlength=num * num_groups)
        yield counts.reshape(num, num_groups).T[group_N].astype(np.float64)


def percentile_interval(drawn_B: Array) -> Array:
    """The middle 95 % of the draws in which the figure is defined, (2,)."""
    defined = drawn_B[~np.isnan(drawn_B)]
    return np.percentile(defined, (2.5, 97.5)) if len(defined) else np.full(2, np.nan)


def ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0
    )


def make_estimate(value: float, ci_low: float, ci_high: float, n: int) -> Estimate:
    """Plain numbers for JSON, which has no NaN: ``None`` stands for undefined."""
    if math.isnan(value) or math.isnan(ci_low):
        return {"value": None, "ci_low": None, "ci_high": None, "n": int(n)}
    bounds = {"ci_low": float(ci_low), "ci_high": float(ci_high)}
    return {"value": float(value), **bounds, "n": int(n)}
