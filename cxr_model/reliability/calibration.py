"""Do the probabilities mean what they say? One temperature, fitted on the validation films.

Shape suffixes as in `cxr_model.metrics`: N films, C classes, B bootstrap draws; K bins. A
film's confidence is its largest probability, a hit is a film whose largest probability is
that of its class. 2,000 draws before and after took 0.2 s together for 225 films of three
classes, 1.4 s for 2,000 (one CPU core).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.intervals import (
    Estimate,
    Slack,
    draw_figures,
    estimate_from_draws,
    make_estimate,
    proportion_interval,
    rate_figure,
    widen,
)

Array = NDArray[Any]

NUM_BINS = 15
TEMPERATURES = (0.25, 10.0)
"""A temperature is looked for between these. Where every validation film is a hit, sharper is
always better and the lower end is the answer; where the network is worse than a guess, the
upper one."""
TOLERATED_ECE = 0.05
"""Calibration fails where the holdout shows an error above this."""
EXCLUDED_ECE = 0.10
"""For it to pass, the holdout must also rule out an error above this: few films cannot."""
LEAST_GROUPS = 10
"""For a verdict either way: the draws of fewer say little of how an error strays."""
_OUTCOME_DRAWS = 500


def temper(probabilities_NC: Array, temperature: float) -> Array:
    """``softmax(log p / T)``, (N, C) as float64: the tempered softmax (Guo et al. 2017).

    No logits are needed: they are the logarithms but for a constant of each film. A
    temperature above 1 draws the probabilities together, the largest one stays the largest.
    """
    scaled_NC = log_probabilities(probabilities_NC) / temperature
    powers_NC = np.exp(scaled_NC - scaled_NC.max(axis=1, keepdims=True))
    tempered_NC: Array = powers_NC / powers_NC.sum(axis=1, keepdims=True)
    return tempered_NC


def log_probabilities(probabilities_NC: Array) -> Array:
    """Natural logarithms; a probability that float64 rounded to 0 counts as 1e-300."""
    logarithms_NC: Array = np.log(np.maximum(probabilities_NC.astype(np.float64), 1e-300))
    return logarithms_NC


def fit_temperature(truth_N: Array, probabilities_NC: Array) -> float:
    """The temperature within `TEMPERATURES` of the least negative log likelihood.

    ``truth_N`` are class indices. One number fitted to some hundred films cannot overfit them
    much; films of one patient count one by one.
    """
    from scipy.optimize import minimize_scalar  # takes 0.8 s, and 'cxr predict' tempers only

    logarithms_NC = log_probabilities(probabilities_NC)
    rows_N = np.arange(len(truth_N))

    def loss(log_temperature: float) -> float:
        scaled_NC = logarithms_NC / np.exp(log_temperature)
        own_N = scaled_NC[rows_N, truth_N]
        return float((np.logaddexp.reduce(scaled_NC, axis=1) - own_N).mean())

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    # The search never tries the ends themselves.
    best = min((low, float(found.x), high), key=loss)
    return float(np.exp(best))


def measure_calibration(
    truth_N: Array,
    probabilities_NC: Array,
    groups_N: Array,
    classes: Sequence[str],
    temperature: float,
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """The ``calibration`` of ``reliability.json``: the holdout before and after tempering.

    Expected calibration error over 15 bins of equally many films (Naeini et al. 2015, with
    the equal-mass bins of Nixon et al. 2019), of the confidence and of each class's own
    probability; Brier score, summed over classes, 0 to 2 (Brier 1950); negative log
    likelihood in nats; intercept and slope of the confidence's log odds (Van Calster et al.
    2016, 2019): below 0 and below 1 is overconfident.

    A calibration error of few films is too large: each bin's share strays from its
    expectation by chance, and a mean of absolute values keeps that. ``ece_if_calibrated``
    says what a network that means what it says shows on as many films: the ``mean``, and what
    97.5 % of them stay below (``high``). The interval of an error begins at 0 where it lies
    below that. All other intervals are percentile ones; all are from a bootstrap over groups.
    Upwards errors, Brier score and log likelihood are widened by the misses that so many groups
    leave possible and the draws do not show; where every film is a hit errors are downwards too.

    ``passed`` is false where the interval of the calibrated error lies wholly above
    `TOLERATED_ECE`, true where it ends at or below `EXCLUDED_ECE`, and else None: so few films
    cannot tell, nor fewer than `LEAST_GROUPS` groups.
    """
    before, after = (
        _measure(truth_N, scores_NC, groups_N, classes, draws, seed)
        for scores_NC in (probabilities_NC, temper(probabilities_NC, temperature))
    )
    is_passed = None
    if len(np.unique(groups_N)) >= LEAST_GROUPS:
        if after["ece"]["ci_low"] > TOLERATED_ECE:
            is_passed = False
        elif after["ece"]["ci_high"] <= EXCLUDED_ECE:
            is_passed = True
    at_bound = not TEMPERATURES[0] * 1.001 < temperature < TEMPERATURES[1] * 0.999
    return {
        "temperature": temperature,
        "temperature_at_bound": at_bound,
        "before": before,
        "after": after,
        "passed": is_passed,
        "verdict": _verdict(is_passed, before, after, temperature, at_bound),
    }


def calibration_error(
    confidence_N: Array, hit_N: Array, weights_NB: Array, inner_edges: Array
) -> tuple[Array, Array]:
    """Expected calibration error under every column of weights, (B,), and how far it strays.

    A film is in the bin whose lower edge is at or below its confidence; ``inner_edges``
    ascend and leave out 0 and 1. The bins do not change from draw to draw. The second array
    is the error of the draw if all weights one were calibrated: what chance alone makes.
    """
    bin_N = np.searchsorted(inner_edges, confidence_N, side="right")
    gap_NK = np.zeros((len(bin_N), len(inner_edges) + 1))
    gap_NK[np.arange(len(bin_N)), bin_N] = hit_N - confidence_N
    gap_KB = gap_NK.T @ weights_NB / weights_NB.sum(axis=0)
    stray_KB = gap_KB - gap_NK.mean(axis=0)[:, None]
    return np.abs(gap_KB).sum(axis=0), np.abs(stray_KB).sum(axis=0)


def equal_mass_edges(confidence_N: Array, num_bins: int = NUM_BINS) -> Array:
    """Inner edges of bins of equally many films; fewer where many are of one confidence."""
    return np.unique(np.quantile(confidence_N, np.arange(1, num_bins) / num_bins))


def _measure(
    truth_N: Array,
    scores_NC: Array,
    groups_N: Array,
    classes: Sequence[str],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    is_true_NC = np.eye(len(classes))[truth_N]
    confidence_N = scores_NC.max(axis=1)
    hit_N = (scores_NC.argmax(axis=1) == truth_N).astype(np.float64)
    # What the calibration errors are of: forecast and outcome. The confidence comes first.
    forecasts = [(confidence_N, hit_N), *zip(scores_NC.T, is_true_NC.T, strict=True)]
    edges = [equal_mass_edges(forecast_N) for forecast_N, _ in forecasts]
    losses_N2 = _losses(scores_NC, truth_N)
    scores = _proper_scores(losses_N2, scores_NC, hit_N)

    def figures(weights_NB: Array) -> dict[str, Array]:
        errors = [
            calibration_error(*forecast, weights_NB, own)
            for forecast, own in zip(forecasts, edges, strict=True)
        ]
        return scores(weights_NB) | {
            "hits": hit_N @ weights_NB / weights_NB.sum(axis=0),
            "error": np.stack([error_B for error_B, _ in errors]),
            "stray": np.stack([stray_B for _, stray_B in errors]),
        }

    points, drawn = draw_figures(figures, groups_N, draws=draws, seed=seed)
    by_chance = [
        _error_by_chance(forecast_N, own, stray_B, seed)
        for (forecast_N, _), own, stray_B in zip(forecasts, edges, drawn["stray"], strict=True)
    ]
    num = len(truth_N)
    hits = rate_figure(float(points["hits"]), drawn["hits"], groups_N)
    unseen = hits.slack[0]  # a share of misses, as what lies below the hits
    own_error, *classwise = (
        _error_estimate(float(value), drawn_B, chance["high"], (hits.certain[0], unseen), num)
        for value, drawn_B, chance in zip(points["error"], drawn["error"], by_chance, strict=True)
    )
    # What a miss costs whose class is the second most probable.
    cost_2 = (_losses(scores_NC, scores_NC.argsort(axis=1)[:, -2]) - losses_N2).mean(axis=0)
    slacks = {"brier": unseen * cost_2[0], "nll": unseen * cost_2[1]}
    return {
        "ece": own_error,
        "ece_if_calibrated": by_chance[0],
        "classwise_ece": dict(zip(classes, classwise, strict=True)),
        **{
            name: widen(
                estimate_from_draws(float(points[name]), drawn[name], num),
                (0.0, slacks.get(name, 0.0)),
            )
            for name in ("brier", "nll", "slope", "intercept")
        },
        "bins": _bins(confidence_N, hit_N, edges[0]),
    }


def _losses(scores_NC: Array, labels_N: Array) -> Array:
    """Each film's Brier score and negative log likelihood if its class were the one given."""
    is_true_NC = np.eye(scores_NC.shape[1])[labels_N]
    brier_N = ((scores_NC - is_true_NC) ** 2).sum(axis=1)
    nll_N = -(is_true_NC * log_probabilities(scores_NC)).sum(axis=1)
    return np.stack([brier_N, nll_N], axis=1)


def _proper_scores(
    losses_N2: Array, scores_NC: Array, hit_N: Array
) -> Callable[[Array], dict[str, Array]]:
    """Brier score, log likelihood, slope and intercept as a function of film weights (N, B)."""
    from cxr_model.reliability.recalibration import intercept_and_slope  # SciPy, as above

    logarithms_NC = log_probabilities(scores_NC)
    # With the others' sum, not 1 - p, which rounds to 0 for a network that is sure.
    others_NC = np.sort(logarithms_NC, axis=1)[:, :-1]
    log_odds_N = logarithms_NC.max(axis=1) - np.logaddexp.reduce(others_NC, axis=1)

    def figures(weights_NB: Array) -> dict[str, Array]:
        brier_B, nll_B = losses_N2.T @ weights_NB / weights_NB.sum(axis=0)
        intercept_B, slope_B = intercept_and_slope(log_odds_N, hit_N, weights_NB)
        return {"brier": brier_B, "nll": nll_B, "slope": slope_B, "intercept": intercept_B}

    return figures


def _error_estimate(
    value: float, drawn_B: Array, by_chance: float, slack: Slack, n: int
) -> Estimate:
    """Calibration error with an interval that holds the true one about 19 times in 20.

    The percentile interval never does for a calibrated network, and misses low errors: a
    draw's error lies above the value as the value lies above the truth. Hence from below the
    draws are reflected about the value (Davison & Hinkley 1997, 5.2), down to 0 where chance
    alone goes as far; from above their spread is laid on the value. ``slack`` is a share of
    misses that the draws do not show; each moves the error by as much.
    """
    middle, high = np.percentile(drawn_B, (50, 97.5))
    ci_low = 0.0 if value <= by_chance else min(value, max(0.0, 2 * value - high))
    estimate = make_estimate(value, ci_low, value + high - middle, n)
    return widen(estimate, slack, (0.0, 1.0))


def _error_by_chance(
    forecast_N: Array, edges: Array, stray_B: Array, seed: int
) -> dict[str, float]:
    """Calibration error where every forecast is a true probability: mean and 97.5th percentile.

    Outcomes drawn from the forecasts (Bröcker & Smith 2007), film by film. Films of a group
    stray together, which the bootstrap's ``stray_B`` knows; but it strays too little where
    all outcomes of a bin are the same. The larger of the two percentiles counts.
    """
    generator = np.random.default_rng(seed)
    num = len(forecast_N)
    bin_N = np.searchsorted(edges, forecast_N, side="right")
    errors = [
        np.abs(np.bincount(bin_N, (generator.random(num) < forecast_N) - forecast_N)).sum() / num
        for _ in range(_OUTCOME_DRAWS)
    ]
    high = max(np.percentile(errors, 97.5), np.percentile(stray_B, 97.5))
    return {"mean": float(np.mean(errors)), "high": float(high)}


def _bins(confidence_N: Array, hit_N: Array, edges: Array) -> list[dict[str, Any]]:
    """Mean confidence, share of hits with Wilson's interval, and films of each bin."""
    bin_N = np.searchsorted(edges, confidence_N, side="right")
    bins = []
    for k in np.unique(bin_N):
        hits_n = hit_N[bin_N == k]
        share = proportion_interval(int(hits_n.sum()), len(hits_n))
        bins.append(
            {
                "confidence": float(confidence_N[bin_N == k].mean()),
                "accuracy": share["value"],
                "ci_low": share["ci_low"],
                "ci_high": share["ci_high"],
                "n": len(hits_n),
            }
        )
    return bins


def _verdict(
    is_passed: bool | None,
    before: dict[str, Any],
    after: dict[str, Any],
    temperature: float,
    at_bound: bool,
) -> str:
    error, perfect = after["ece"], after["ece_if_calibrated"]["mean"]
    words = {
        True: f"no calibration error of the most probable class above {TOLERATED_ECE} is shown, "
        f"and one above {EXCLUDED_ECE} ruled out,",
        False: f"a calibration error of the most probable class above {TOLERATED_ECE} is shown",
        None: f"too few films to tell: no calibration error above {TOLERATED_ECE} is shown, nor "
        f"one above {EXCLUDED_ECE} ruled out,",
    }
    verdict = (
        f"{words[is_passed]} on {error['n']} films: {error['value']:.3f} "
        f"({error['ci_low']:.3f}–{error['ci_high']:.3f}) at temperature {temperature:.2f}, "
        f"{before['ece']['value']:.3f} without; of a network that is calibrated {perfect:.3f} "
        "would be expected on as many"
    )
    if at_bound:
        verdict += "; the temperature is at the bound of what is looked for"
    return verdict
