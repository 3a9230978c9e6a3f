"""How good a classifier is on films it never saw: each figure with its 95 % interval and n.

The interval is a percentile bootstrap over groups (Efron & Tibshirani 1993, ch. 13): whole
groups, a patient's films for one, are drawn with replacement, because films of one group
are not independent. A draw is a vector of film weights, so one weighted formula gives the
point value (all weights one) and all draws at once. A proportion that is 0 or 1 is the same
in every draw: its interval is Wilson's (`certain_slack`), and what is made of such proportions,
or of a ranking without fault, is widened by as much.

Shape suffixes: N films, C classes, B bootstrap draws, U distinct scores. 2,000 draws of
three classes took 0.1 s for 225 films, 1 s for 2,000 and 7 s for 20,000 (one CPU core,
212 MB at the peak).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.errors import DataError

Array = NDArray[Any]
Estimate = dict[str, Any]

OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")

_CHUNK_BYTES = 16 * 2**20  # of one films x draws array; a handful of them live at once


def evaluate_predictions(
    labels: Array,
    probabilities: Array,
    groups: Array,
    classes: Sequence[str],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """The ``holdout`` part of ``metrics.json``.

    ``labels`` (N,) are names from ``classes`` (C of them), ``probabilities`` (N, C) stand in
    the order of ``classes`` and the largest one is the prediction, ``groups`` (N,) name what
    is drawn as a whole. Each figure is ``{"value", "ci_low", "ci_high", "n"}`` where ``n``
    counts the films that enter it: a sensitivity's positives, a PPV's predicted positives.
    Per-class figures are one-vs-rest. Draws in which a figure is undefined are left out; an
    undefined value is ``None``.

    Raises ``DataError`` for shapes that disagree, unknown labels and non-finite numbers.
    """
    _check(labels, probabilities, groups, classes)
    truth_N = (labels[:, None] == np.array(classes)).argmax(axis=1)
    scores_NC = probabilities.astype(np.float64)
    points, drawn = draw_figures(
        partial(weighted_figures, truth_N, scores_NC), groups, draws=draws, seed=seed
    )
    confusion_CC = points["confusion_matrix"].astype(int)
    intervals = {
        name: np.apply_along_axis(_percentile_interval, -1, drawn[name]) for name in points
    }
    slacks = certain_slacks(points, truth_N, scores_NC.argmax(axis=1), groups)
    estimates = _estimates(points, intervals, _films_entering(confusion_CC), slacks)
    return {
        "n": len(labels),
        "num_groups": len(np.unique(groups)),
        "classes": list(classes),
        **{name: estimates[name].item() for name in OVERALL},
        "per_class": {
            label: {name: estimates[name][c] for name in PER_CLASS}
            for c, label in enumerate(classes)
        },
        "confusion_matrix": confusion_CC.tolist(),
        "confusion_matrix_interval": {
            end: [[max(cell[end], 0.0) for cell in row] for row in estimates["confusion_matrix"]]
            for end in ("ci_low", "ci_high")
        },
        "interval": f"95 % percentile bootstrap over groups, {draws} draws; "
        "widened by Wilson's where draws are certain",
    }


def proportion_interval(successes: int, n: int) -> Estimate:
    """A share of ``n`` independent trials with Wilson's 95 % interval (Wilson 1927)."""
    if not 0 <= successes <= n:
        raise DataError(f"successes={successes}: use 0 to n ({n})")
    if n == 0:
        return make_estimate(math.nan, math.nan, math.nan, 0)
    return make_estimate(successes / n, *_wilson_interval(successes, n), n)


@cache  # SciPy works out a p-value besides, and the same few counts come again and again
def _wilson_interval(successes: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # takes 0.8 s, which a mere list of runs need not wait

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def certain_slack(rates_R: Array, num_groups_R: Array) -> tuple[float, float]:
    """How far a mean of rates may lie below and above what a bootstrap gives.

    Of a rate that is 0 or 1 every draw is the same, as if it were known for certain: there
    Wilson's interval for its groups tells what it may be. Slacks of several rates are added
    as squares, as independent limits are (Zou & Donner 2008); NaN rates have none.
    """
    below, above = [0.0], [0.0]
    for rate, num_groups in zip(rates_R.tolist(), num_groups_R.tolist(), strict=True):
        if num_groups and rate in (0.0, 1.0):
            wilson = proportion_interval(round(rate * num_groups), int(num_groups))
            below.append(rate - wilson["ci_low"])
            above.append(wilson["ci_high"] - rate)
    return math.hypot(*below) / len(rates_R), math.hypot(*above) / len(rates_R)


def widen(estimate: Estimate, slack: Iterable[float]) -> Estimate:
    """The estimate with `certain_slack` added to its interval, again as squares."""
    value = estimate["value"]
    if value is None:
        return estimate
    below, above = slack
    return estimate | {
        "ci_low": value - math.hypot(value - estimate["ci_low"], below),
        "ci_high": value + math.hypot(estimate["ci_high"] - value, above),
    }


def rate_estimate(value: float, drawn_B: Array, groups_N: Array) -> Estimate:
    """A share of films, (N,) groups of which were drawn, with its `certain_slack`."""
    slack = certain_slack(np.array([value]), np.array([len(np.unique(groups_N))]))
    return widen(estimate_from_draws(value, drawn_B, len(groups_N)), slack)


def faultless_slack(value: float, *num_groups: int) -> tuple[float, float]:
    """The slack of an area under a curve, which draws alone would take for certain at 0 and 1.

    Of a ranking without fault some threshold has none either: the area is taken to be as
    uncertain as the mean of two rates there, of as many groups each as ``num_groups`` says
    (sensitivity and specificity for AUROC, sensitivity and PPV for AUPRC).
    """
    if value not in (0.0, 1.0):
        return 0.0, 0.0
    return certain_slack(np.full(len(num_groups), value), np.array(num_groups))


def certain_slacks(
    points: dict[str, Array], truth_N: Array, called_N: Array, groups_N: Array
) -> dict[str, Array]:
    """What to `widen` each figure by, below and above: (2,), (C, 2) or, of cells, (C, C, 2).

    ``points`` are `weighted_figures` of films (N,) whose classes and predictions, both as
    numbers, are ``truth_N`` and ``called_N``.
    """
    classes_C1 = np.arange(len(points["sensitivity"]))[:, None]
    asked = {
        "sensitivity": truth_N == classes_C1,
        "specificity": truth_N != classes_C1,
        "ppv": called_N == classes_C1,
        "npv": called_N != classes_C1,
    }
    groups_C = {name: count_groups(groups_N, member_CN) for name, member_CN in asked.items()}

    def slack(c: int, *names: str) -> tuple[float, float]:
        return certain_slack(
            np.array([points[name][c] for name in names]),
            np.array([groups_C[name][c] for name in names]),
        )

    slacks: dict[str, list[Any]] = {name: [] for name in PER_CLASS}
    for c, f1 in enumerate(points["f1"].tolist()):
        for name in asked:
            slacks[name].append(slack(c, name))
        # What F1 changes with a rate of 1: by half of its square.
        slacks["f1"].append(np.multiply(slack(c, "sensitivity", "ppv"), f1**2 or 1.0))
        positives, negatives = groups_C["sensitivity"][c], groups_C["specificity"][c]
        for name, others in (("auroc", negatives), ("auprc", positives)):
            slacks[name].append(faultless_slack(points[name][c], positives, others))
    # A cell that is empty, or holds all of its class, is a rate of that class's films.
    confusion_CC, true_C = points["confusion_matrix"], points["confusion_matrix"].sum(axis=1)
    rates_CC = ratio(confusion_CC, np.broadcast_to(true_C[:, None], confusion_CC.shape))
    cells = [
        [np.multiply(certain_slack(rate[None], groups[None]), films) for rate in rates_C]
        for rates_C, groups, films in zip(rates_CC, groups_C["sensitivity"], true_C, strict=True)
    ]
    accuracy = certain_slack(points["accuracy"][None], np.array([len(np.unique(groups_N))]))
    # What MCC changes with an accuracy of 1, down to its lower end; a mixture of one is none.
    shares_C = groups_C["sensitivity"] / groups_C["sensitivity"].sum()
    mixture = 1 - (shares_C**2).sum()
    return {name: np.array(found) for name, found in slacks.items()} | {
        "confusion_matrix": np.array(cells),
        "accuracy": np.array(accuracy),
        "balanced_accuracy": np.array(
            certain_slack(points["sensitivity"], groups_C["sensitivity"])
        ),
        "macro_f1": np.hypot.reduce(slacks["f1"]) / len(classes_C1),
        "mcc": np.minimum(ratio(np.array(accuracy), np.full(2, mixture)), 2.0),
    }


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
    ci_low, ci_high = _percentile_interval(drawn_B)
    return make_estimate(value, ci_low, ci_high, n)


def format_estimate(estimate: Estimate) -> str:
    """``0.893 (0.85–0.93)``, ``-0.031 (-0.08 to 0.02)`` with a sign in it, or ``undefined``.

    Undefined is what there was nothing to compute on.
    """
    if estimate["value"] is None:
        return "undefined"
    to = " to " if estimate["ci_low"] < 0 else "–"  # a dash before a minus sign is hard to read
    return f"{estimate['value']:.3f} ({estimate['ci_low']:.2f}{to}{estimate['ci_high']:.2f})"


def weighted_figures(truth_N: Array, scores_NC: Array, weights_NB: Array) -> dict[str, Array]:
    """Every figure under every column of film weights; undefined ones are NaN.

    ``truth_N`` are class indices, ``scores_NC`` probabilities, ``weights_NB`` non-negative.
    Returns (B,) for the names in ``OVERALL``, (C, B) for those in ``PER_CLASS`` and (C, C, B)
    for ``confusion_matrix`` (row true, column predicted).
    """
    num_films, num_classes = scores_NC.shape
    cell_N = truth_N * num_classes + scores_NC.argmax(axis=1)
    in_cell_NK = np.zeros((num_films, num_classes**2))
    in_cell_NK[np.arange(num_films), cell_N] = 1.0
    confusion_CCB = (in_cell_NK.T @ weights_NB).reshape(num_classes, num_classes, -1)
    ranking_CB = [
        _ranking_figures(truth_N == c, scores_NC[:, c], weights_NB) for c in range(num_classes)
    ]
    return {
        **_confusion_figures(confusion_CCB),
        "auroc": np.stack([auroc_B for auroc_B, _ in ranking_CB]),
        "auprc": np.stack([auprc_B for _, auprc_B in ranking_CB]),
        "confusion_matrix": confusion_CCB,
    }


def _confusion_figures(confusion_CCB: Array) -> dict[str, Array]:
    hit_CB = confusion_CCB.diagonal().T
    true_CB, predicted_CB = confusion_CCB.sum(axis=1), confusion_CCB.sum(axis=0)
    total_B = true_CB.sum(axis=0)
    true_negative_CB = total_B - true_CB - predicted_CB + hit_CB
    sensitivity_CB = ratio(hit_CB, true_CB)
    f1_CB = ratio(2 * hit_CB, true_CB + predicted_CB)
    return {
        "accuracy": ratio(hit_CB.sum(axis=0), total_B),
        "balanced_accuracy": sensitivity_CB.mean(axis=0),
        "macro_f1": f1_CB.mean(axis=0),
        # Matthews' coefficient for any number of classes: Gorodkin 2004.
        "mcc": ratio(
            hit_CB.sum(axis=0) * total_B - (true_CB * predicted_CB).sum(axis=0),
            np.sqrt(
                (total_B**2 - (true_CB**2).sum(axis=0))
                * (total_B**2 - (predicted_CB**2).sum(axis=0))
            ),
        ),
        "sensitivity": sensitivity_CB,
        "specificity": ratio(true_negative_CB, total_B - true_CB),
        "ppv": ratio(hit_CB, predicted_CB),
        "npv": ratio(true_negative_CB, total_B - predicted_CB),
        "f1": f1_CB,
    }


def _ranking_figures(positive_N: Array, score_N: Array, weights_NB: Array) -> tuple[Array, Array]:
    """AUROC (ties count half, Mann-Whitney) and AUPRC (average precision), (B,) each."""
    order_N = np.argsort(-score_N, kind="stable")
    starts_U = np.flatnonzero(np.diff(score_N[order_N], prepend=np.inf))
    sorted_NB = weights_NB[order_N]
    total_UB = np.add.reduceat(sorted_NB, starts_U)
    sorted_NB *= positive_N[order_N, None]
    positive_UB = np.add.reduceat(sorted_NB, starts_U)
    called_UB = total_UB.cumsum(axis=0)  # at or above the score: true and false positives
    hit_UB = positive_UB.cumsum(axis=0)
    num_positive_B, num_negative_B = hit_UB[-1], called_UB[-1] - hit_UB[-1]
    negative_below_UB = num_negative_B - (called_UB - hit_UB) + (total_UB - positive_UB) / 2
    concordant_B = np.einsum("ub,ub->b", positive_UB, negative_below_UB)
    called_UB[called_UB == 0] = 1.0  # above a draw's first film nothing is hit either: 0 / 1
    precision_B = np.einsum("ub,ub->b", positive_UB, hit_UB / called_UB)
    return (
        ratio(concordant_B, num_positive_B * num_negative_B),
        ratio(precision_B, num_positive_B),
    )


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


def _films_entering(confusion_CC: Array) -> dict[str, Array]:
    """The ``n`` of each figure, in the figure's shape."""
    true_C, predicted_C = confusion_CC.sum(axis=1), confusion_CC.sum(axis=0)
    total = true_C.sum()
    every_C = np.full_like(true_C, total)
    return {
        **dict.fromkeys(OVERALL, total),
        "sensitivity": true_C,
        "specificity": total - true_C,
        "ppv": predicted_C,
        "npv": total - predicted_C,
        "f1": true_C + predicted_C - confusion_CC.diagonal(),
        "auroc": every_C,
        "auprc": every_C,
        "confusion_matrix": np.broadcast_to(true_C[:, None], confusion_CC.shape),
    }


def _estimates(
    points: dict[str, Array],
    intervals: dict[str, Array],
    num_films: dict[str, Array],
    slacks: dict[str, Array],
) -> dict[str, Array]:
    """Arrays of `Estimate`, each in its figure's shape."""

    def estimate(value: float, low: float, high: float, n: int, *slack: float) -> Estimate:
        return widen(make_estimate(value, low, high, n), slack)

    to_estimate = np.vectorize(estimate, otypes=[object])
    return {
        name: to_estimate(
            points[name],
            *np.moveaxis(intervals[name], -1, 0),
            num_films[name],
            *np.moveaxis(slacks[name], -1, 0),
        )
        for name in points
    }


def _percentile_interval(drawn_B: Array) -> Array:
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


def _check(labels: Array, probabilities: Array, groups: Array, classes: Sequence[str]) -> None:
    expected = (len(labels), len(classes))
    if probabilities.shape != expected or groups.shape != labels.shape or len(labels) == 0:
        raise DataError(
            f"probabilities {probabilities.shape}, groups {groups.shape}: {len(labels)} labels "
            f"and {len(classes)} classes need {expected} and ({len(labels)},), and a film"
        )
    unknown = sorted(set(labels.tolist()) - set(classes))
    if unknown:
        raise DataError(f"label {unknown[0]!r}: not one of the classes {', '.join(classes)}")
    if not np.isfinite(probabilities).all():
        row = int(np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[0])
        raise DataError(
            f"probabilities of film {row}: not finite; lower training.learning_rate, "
            "training has diverged"
        )
