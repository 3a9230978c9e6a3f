"""Thresholds chosen on the validation films, and what they do on the holdout.

Each class against the rest, on calibrated probabilities. Shape suffixes: N films, K pairs of
class and rule, B bootstrap draws.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from cxr_model.errors import DataError
from cxr_model.intervals import (
    Estimate,
    draw_figures,
    estimate_from_draws,
    rate_figure,
    ratio,
    widen,
)

Array = NDArray[Any]
Rule = Literal["youden", "sensitivity-0.95", "specificity-0.95"]
RULES: tuple[Rule, ...] = get_args(Rule)
PREVALENCES = (0.01, 0.05, 0.2)
_LEAST = 0.95  # sensitivity or specificity that a rule asks for


def choose_thresholds(
    truth_N: Array, probabilities_NC: Array, classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Class -> rule -> threshold, from the validation films' calibrated probabilities.

    ``youden`` has the largest sensitivity + specificity - 1 (Youden 1950), the highest such
    threshold of several; ``sensitivity-0.95`` is the highest threshold with at least that
    sensitivity, ``specificity-0.95`` the lowest with at least that specificity. A film at or
    above the threshold is called; it lies halfway to the next film's probability, slightly
    above 1 where no film is to be called and one has probability 1.

    Raises DataError for a class that no validation film, or every one, is of.
    """
    chosen = {}
    for c, label in enumerate(classes):
        is_positive_N = truth_N == c
        if not 0 < is_positive_N.sum() < len(truth_N):
            raise DataError(
                f"class {label!r}: {is_positive_N.sum()} of {len(truth_N)} validation films are "
                "of it, which leaves no operating point to choose; raise split.validation_fraction"
            )
        chosen[label] = _choose(is_positive_N, probabilities_NC[:, c])
    return chosen


def measure_operating_points(
    truth_N: Array,
    probabilities_NC: Array,
    groups_N: Array,
    classes: Sequence[str],
    thresholds: Mapping[str, Mapping[str, float]],
    *,
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Sensitivity, specificity, and PPV and NPV at `PREVALENCES`, a row a class and rule.

    Predictive values follow by Bayes' rule from sensitivity and specificity, draw by draw, as
    the share of a class among the films says nothing of a hospital's. Draws of few groups, or
    of films that are all called rightly, stray too little: sensitivity and specificity have
    Wilson's interval with groups for trials at least, and a predictive value is widened by what
    that makes of it.
    """
    pairs = [(c, rule) for c in range(len(classes)) for rule in thresholds[classes[c]]]
    is_positive_NK = np.stack([truth_N == c for c, _ in pairs], axis=1)
    is_called_NK = np.stack(
        [probabilities_NC[:, c] >= thresholds[classes[c]][rule] for c, rule in pairs], axis=1
    )

    def figures(weights_NB: Array) -> dict[str, Array]:
        rates = {
            "sensitivity": _share(is_called_NK, is_positive_NK, weights_NB),
            "specificity": _share(~is_called_NK, ~is_positive_NK, weights_NB),
        }
        return rates | {
            f"{name} {prevalence}": value_KB
            for prevalence in PREVALENCES
            for name, value_KB in predictive_values(
                rates["sensitivity"], rates["specificity"], prevalence
            ).items()
        }

    points, drawn = draw_figures(figures, groups_N, draws=draws, seed=seed)
    rows = []
    for k, (c, rule) in enumerate(pairs):
        point = {name: float(value_K[k]) for name, value_K in points.items()}
        draw = {name: value_KB[k] for name, value_KB in drawn.items()}
        own = is_positive_NK[:, k]
        rows.append(
            {"class": classes[c], "rule": rule, "threshold": thresholds[classes[c]][rule]}
            | _estimates(point, draw, groups_N[own], groups_N[~own])
        )
    return rows


def rates_at(truth_N: Array, score_N: Array, label: int, threshold: float) -> dict[str, float]:
    """Sensitivity and specificity of one threshold, as plain shares."""
    is_positive_N, is_called_N = truth_N == label, score_N >= threshold
    return {
        "sensitivity": float(is_called_N[is_positive_N].mean()),
        "specificity": float((~is_called_N)[~is_positive_N].mean()),
    }


def predictive_values(
    sensitivity: Array | np.float64, specificity: Array | np.float64, prevalence: float
) -> dict[str, Array]:
    """PPV and NPV by Bayes' rule where a share ``prevalence`` has the class; NaN for 0 / 0."""
    hit = np.asarray(sensitivity * prevalence)
    false_alarm = np.asarray((1 - specificity) * (1 - prevalence))
    cleared = np.asarray(specificity * (1 - prevalence))
    missed = np.asarray((1 - sensitivity) * prevalence)
    return {"ppv": ratio(hit, hit + false_alarm), "npv": ratio(cleared, cleared + missed)}


def _choose(is_positive_N: Array, score_N: Array) -> dict[str, float]:
    false_rate_U, true_rate_U, score_U = roc_curve(is_positive_N, score_N, drop_intermediate=False)
    # Youden's index in whole films: differences of rates would tie or not by rounding.
    num_positive = int(is_positive_N.sum())
    num_negative = len(is_positive_N) - num_positive
    hits_U = np.rint(true_rate_U * num_positive).astype(int)
    alarms_U = np.rint(false_rate_U * num_negative).astype(int)
    places: dict[Rule, int] = {
        "youden": int((hits_U * num_negative - alarms_U * num_positive).argmax()),
        "sensitivity-0.95": int((hits_U >= _LEAST * num_positive).argmax()),
        "specificity-0.95": int(
            np.flatnonzero(num_negative - alarms_U >= _LEAST * num_negative)[-1]
        ),
    }
    return {rule: _below(score_U, place) for rule, place in places.items()}


def _below(score_U: Array, place: int) -> float:
    """Halfway from the lowest score that is called to the highest that is not.

    ``score_U`` descends and begins with infinity, at which nothing is called.
    """
    if place == 0:
        return max((1.0 + float(score_U[1])) / 2, float(np.nextafter(score_U[1], 2.0)))
    lower = float(score_U[place + 1]) if place + 1 < len(score_U) else 0.0
    halfway = (float(score_U[place]) + lower) / 2
    return halfway if halfway > lower else float(score_U[place])


def _share(is_counted_NK: Array, is_asked_NK: Array, weights_NB: Array) -> Array:
    counted_KB = (is_counted_NK & is_asked_NK).T.astype(np.float64) @ weights_NB
    return ratio(counted_KB, is_asked_NK.T.astype(np.float64) @ weights_NB)


def _estimates(
    point: dict[str, float], draw: dict[str, Array], groups: Array, other_groups: Array
) -> dict[str, Any]:
    """All figures of one row; ``groups`` are those of the class's films."""
    num = len(groups) + len(other_groups)
    rates = {
        name: rate_figure(point[name], draw[name], own)
        for name, own in (("sensitivity", groups), ("specificity", other_groups))
    }

    def value(name: str, prevalence: float) -> Estimate:
        key = f"{name} {prevalence}"
        changes_22 = np.array(
            [
                [_changed(name, prevalence, point, rate, by) for by in (-below, above)]
                for rate, (below, above) in ((rate, own.slack) for rate, own in rates.items())
            ]
        )
        found = estimate_from_draws(point[key], draw[key], num)
        return widen(found, np.hypot(*changes_22).tolist(), (0.0, 1.0))

    return {
        "sensitivity": rates["sensitivity"].estimate(len(groups)),
        "specificity": rates["specificity"].estimate(len(other_groups)),
    } | {
        name: {str(prevalence): value(name, prevalence) for prevalence in PREVALENCES}
        for name in ("ppv", "npv")
    }


def _changed(name: str, prevalence: float, point: dict[str, float], rate: str, by: float) -> float:
    """What a predictive value changes when one of its two rates does, which raises both alike."""
    sensitivity, specificity = (
        np.float64(point[each] + by * (each == rate)) for each in ("sensitivity", "specificity")
    )
    changed = predictive_values(sensitivity, specificity, prevalence)[name]
    return abs(float(changed) - point[f"{name} {prevalence}"])
