"""Leaving films unanswered: what it would buy, and where the run's network does it.

A film's confidence is its largest calibrated probability; those below a threshold are left
to a person. Shape suffixes: N films, U distinct confidences, B bootstrap draws.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.intervals import (
    draw_figures,
    estimate_from_draws,
    rate_estimate,
    rate_figure,
    ratio,
    widen,
)

Array = NDArray[Any]

LEAST_COVERAGE = 0.5
"""At most the other half of the validation films is left unanswered."""
_MOST_POINTS = 200  # of the curve in the file


def choose_abstention(confidence_N: Array, hit_N: Array, accuracy: float) -> tuple[float, str]:
    """The threshold from the validation films, and the rule in words.

    The lowest confidence from which on the answered films reach ``accuracy``, which leaves as
    few as possible unanswered; halfway to the next lower confidence, 0 where all are answered.
    Where no coverage of `LEAST_COVERAGE` or more reaches it, that coverage's.
    """
    confidence_U, coverage_U, risk_U = risk_coverage(confidence_N, hit_N)
    answered = coverage_U >= LEAST_COVERAGE
    reached = answered & (1 - risk_U >= accuracy - 1e-12)
    place = int(np.flatnonzero(reached)[-1] if reached.any() else answered.argmax())
    is_last = place + 1 == len(confidence_U)
    threshold = 0.0 if is_last else float((confidence_U[place] + confidence_U[place + 1]) / 2)
    rule = f"accuracy of the answered validation films at least {accuracy:g}"
    if not reached.any():
        rule += (
            f"; not reached with {LEAST_COVERAGE:.0%} of them answered or more, so "
            f"{coverage_U[place]:.0%} are, of which {1 - risk_U[place]:.3f} are right"
        )
    return threshold, rule


def risk_coverage(confidence_N: Array, hit_N: Array) -> tuple[Array, Array, Array]:
    """Distinct confidences from the highest down, and coverage and risk from each on, (U,).

    Risk is the share of wrong films among the answered ones (Geifman & El-Yaniv 2017).
    """
    order_N, last_U = _descending(confidence_N)
    num_U = last_U + 1
    wrong_U = np.cumsum(1 - hit_N[order_N])[last_U]
    return confidence_N[order_N][last_U], num_U / len(hit_N), wrong_U / num_U


def measure_selective(
    confidence_N: Array,
    hit_N: Array,
    groups_N: Array,
    threshold: float,
    rule: str,
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """The ``risk_coverage`` of ``reliability.json``, on the holdout.

    AURC is the area under the curve, the mean risk over all coverages of one film more each
    (Geifman et al. 2019): about half the error rate for a confidence that orders films well,
    the error rate itself for one that says nothing.
    """
    order_N, last_U = _descending(confidence_N)
    wrong_N, is_answered_N = 1 - hit_N, (confidence_N >= threshold).astype(np.float64)

    def figures(weights_NB: Array) -> dict[str, Array]:
        sorted_NB = weights_NB[order_N]
        answered_UB = sorted_NB.cumsum(axis=0)[last_U]
        sorted_NB *= wrong_N[order_N, None]
        risk_UB = sorted_NB.cumsum(axis=0)[last_U]
        risk_UB /= np.maximum(answered_UB, 1)  # nothing answered, nothing wrong: 0
        mass_UB = np.diff(answered_UB, axis=0, prepend=0)
        total_B = answered_UB[-1]
        covered_B = is_answered_N @ weights_NB
        return {
            "aurc": np.einsum("ub,ub->b", mass_UB, risk_UB) / total_B,
            "wrong": wrong_N @ weights_NB / total_B,
            "coverage": covered_B / total_B,
            "accuracy": ratio((is_answered_N * hit_N) @ weights_NB, covered_B),
        }

    points, drawn = draw_figures(figures, groups_N, draws=draws, seed=seed)
    num = len(hit_N)
    # The area may be what the error rate may be, and is no surer.
    slack = rate_figure(float(points["wrong"]), drawn["wrong"], groups_N).slack
    _, coverage_U, risk_U = risk_coverage(confidence_N, hit_N)
    step = -(-len(coverage_U) // _MOST_POINTS)
    kept = np.unique(np.append(np.arange(0, len(coverage_U), step), len(coverage_U) - 1))
    return {
        "coverage": coverage_U[kept].tolist(),
        "risk": risk_U[kept].tolist(),
        "aurc": widen(
            estimate_from_draws(float(points["aurc"]), drawn["aurc"], num), slack, (0.0, 1.0)
        ),
        "threshold": threshold,
        "rule": rule,
        "coverage_at_threshold": rate_estimate(
            float(points["coverage"]), drawn["coverage"], groups_N
        ),
        "accuracy_at_threshold": rate_estimate(
            float(points["accuracy"]), drawn["accuracy"], groups_N[confidence_N >= threshold]
        ),
    }


def _descending(confidence_N: Array) -> tuple[Array, Array]:
    """Films by falling confidence, and the place of the last of each distinct confidence."""
    order_N = np.argsort(-confidence_N, kind="stable")
    return order_N, np.flatnonzero(np.diff(confidence_N[order_N], append=-np.inf))
