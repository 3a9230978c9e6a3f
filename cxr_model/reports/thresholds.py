"""One class against the rest at any threshold: what the report's slider looks up.

Shape suffixes: N films, C classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.intervals import make_estimate, proportion_interval
from cxr_model.reliability.operating_points import predictive_values

Array = NDArray[Any]

MOST_SCORES = 200_000
"""Of all classes together, at most 24 bytes each and 5 MB of the page; above it, only every k-th
is kept. None is rounded: with classes well apart, scores and thresholds differ by 1e-11, and the
page must count what the operating points were measured on."""


def class_scores(truth_N: Array, scores_NC: Array) -> list[dict[str, Any]]:
    """For each class the scores of its films and of the others, each in rising order.

    ``{"positive": {"scores", "n"}, "negative": ...}``. ``n`` counts the films; of very many
    ``scores`` holds every k-th, so a count read off it is right to one part in its length.
    """
    num_classes = scores_NC.shape[1]
    most = MOST_SCORES // (2 * num_classes)
    return [
        {
            "positive": _sorted_scores(scores_NC[truth_N == c, c], most),
            "negative": _sorted_scores(scores_NC[truth_N != c, c], most),
        }
        for c in range(num_classes)
    ]


def _sorted_scores(scores_N: Array, most: int) -> dict[str, Any]:
    step = -(-len(scores_N) // most) or 1
    kept = np.sort(scores_N)[step // 2 :: step]
    return {"scores": kept.tolist(), "n": len(scores_N)}


def outcome_at(
    positive_N: Array, score_N: Array, threshold: float, prevalence: float
) -> dict[str, Any]:
    """Counts and rates where a film is called positive at or above ``threshold``.

    Rates are `Estimate`s: sensitivity and specificity with Wilson's interval, PPV and NPV, by
    Bayes' rule where a share ``prevalence`` has the class, with what the two intervals allow.
    """
    called_N = score_N >= threshold
    tp, fn = int((called_N & positive_N).sum()), int((~called_N & positive_N).sum())
    fp, tn = int((called_N & ~positive_N).sum()), int((~called_N & ~positive_N).sum())
    sensitivity, specificity = proportion_interval(tp, tp + fn), proportion_interval(tn, tn + fp)
    found, left = (
        np.array([each[end] for end in ("value", "ci_low", "ci_high")], dtype=np.float64)
        for each in (sensitivity, specificity)
    )
    values = predictive_values(found, left, prevalence)  # both rise with both
    return {
        "tp": tp, "fn": fn, "fp": fp, "tn": tn,
        "sensitivity": sensitivity, "specificity": specificity,
        **{
            name: make_estimate(value, low, high, len(score_N))
            for name, (value, low, high) in values.items()
        },
    }  # fmt: skip
