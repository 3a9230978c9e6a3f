"""Stated thresholds, and the sentence that says whether a method of explanation met them.

A check that ``decides`` is about the method; the others are about the network too: a
faithful map of a network that reads the film's border lies outside the lungs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxr_model.intervals import Estimate, draw_figures, estimate_from_draws, ratio, share_estimate

Array = NDArray[np.float64]
Check = dict[str, Any]

MOST_RANDOMISED_SPEARMAN = 0.5
"""With no learnt weight left, a quarter of the ranks' variance in common is the most. Adebayo
et al. 2018 give no number; a mere picture of the film's edges stays at 1."""
MOST_RANDOMISED_SSIM = 0.5
"""The same place on the scale of structural similarity, where 1 is the same picture."""
LEAST_REPEATABILITY = 0.7
"""Spearman of two seeds: half of the ranks' variance is the map's own, not the draw's."""
MOST_SENSITIVITY = 0.5
"""Noise that cannot be seen may change a map by half of its own size."""
MOST_DELTA = 0.05
"""Of the logit's change: Sundararajan et al. 2017, section 5, ask for 5 %."""
MOST_SAMPLED_DELTA = 0.25
"""GradientShap draws its points, so its sum has sampling error beside the true one."""
LEAST_GROUPS = 5
"""Of one patient's films, or two, any map may come out better than the baselines by luck."""

_DRAWS = 2000
_FAILURES = {
    "insertion": "what it points at is not shown to raise the probability more than a baseline",
    "deletion": "what it points at is not shown to lower the probability more than a baseline",
    "randomised-spearman": "it ranks places alike when all weights are random",
    "randomised-ssim": "it looks alike when all weights are random",
    "repeatability": "another seed gives another map",
    "sensitivity": "noise too weak to see changes it",
    "convergence-delta": "its sum is not the change of the score",
}


def mean_estimate(values_N: Array, groups_N: NDArray[Any], seed: int) -> Estimate:
    """The mean over films with a percentile bootstrap interval over their groups.

    Where every value is 0 or 1 it is a rate, whose interval is `share_estimate`'s.
    """

    def mean(weights_NB: Array) -> dict[str, Array]:
        return {"mean": ratio(values_N @ weights_NB, weights_NB.sum(axis=0))}

    if np.isin(values_N, (0.0, 1.0)).all():
        return share_estimate(values_N, groups_N, draws=_DRAWS, seed=seed)
    points, drawn = draw_figures(mean, groups_N, draws=_DRAWS, seed=seed)
    return estimate_from_draws(float(points["mean"]), drawn["mean"], len(values_N))


def bound_check(
    name: str,
    title: str,
    value: Estimate,
    threshold: float,
    better: Literal["higher", "lower"],
    *,
    decides: bool = True,
) -> Check:
    """A figure against a fixed threshold; the mean itself is judged, its interval shown."""
    above = value["value"] >= threshold
    passed = above if better == "higher" else value["value"] <= threshold
    return {
        "name": name, "title": title, "value": value, "threshold": threshold, "better": better,
        "passed": bool(passed), "decides": decides, "reference": {},
    }  # fmt: skip


def paired_check(
    name: str,
    title: str,
    values_N: Array,
    references: Mapping[str, Array],
    better: Literal["higher", "lower"],
    *,
    groups_N: NDArray[Any],
    seed: int,
    decides: bool = True,
) -> Check:
    """A figure against baselines on the same films.

    It passes where the 95 % interval of the paired difference lies on the better side of
    zero for each of ``references``, whole groups drawn; ``threshold`` is the strongest one's mean.
    """
    sign = 1 if better == "higher" else -1
    differences = {
        label: mean_estimate(sign * (values_N - other_N), groups_N, seed)
        for label, other_N in references.items()
    }
    means = {label: float(other_N.mean()) for label, other_N in references.items()}
    return {
        "name": name, "title": title, "value": mean_estimate(values_N, groups_N, seed),
        "threshold": sign * max(sign * mean for mean in means.values()), "better": better,
        "passed": all(difference["ci_low"] > 0 for difference in differences.values()),
        "decides": decides, "reference": means, "gain": differences,
    }  # fmt: skip


def judge(title: str, checks: Sequence[Check]) -> tuple[bool, str]:
    """Whether all deciding checks hold, and one sentence that names those that do not."""
    failed = [check["name"] for check in checks if check["decides"] and not check["passed"]]
    if not failed:
        return True, (
            f"{title} passed: it names places the answer hangs on, changes with the network's "
            "weights and repeats."
        )
    reasons = [f"{name} ({_FAILURES[name]})" for name in failed]
    return False, f"{title} failed: {'; '.join(reasons)}."
