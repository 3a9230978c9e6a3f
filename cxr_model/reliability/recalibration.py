"""Logistic recalibration, for every bootstrap draw at once.

How a forecast's log odds would have to be shifted and stretched to fit the outcomes: 0 and 1
where it is calibrated (Cox 1958; Van Calster et al. 2016, doi:10.1016/j.jclinepi.2015.12.005).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[Any]

_LEAST_SPREAD = 1e-6  # of log odds, which differ by rounding below it
_STEPS = 40
_LONGEST_STEP = 2.0  # in standard deviations of the log odds; Newton's method may overshoot
_TOLERANCE = 1e-6  # of a step; the error after it is about its square


def intercept_and_slope(log_odds_N: Array, hit_N: Array, weights_NB: Array) -> tuple[Array, Array]:
    """Calibration intercept and slope under every column of film weights, (B,) each.

    The slope is that of a logistic regression of ``hit_N`` (0 or 1) on ``log_odds_N``: below
    1 where the forecasts are too extreme. The intercept is that of one with the slope held at
    1, "calibration in the large" (Van Calster et al. 2019, doi:10.1186/s12916-019-1466-7):
    below 0 where they are too high. NaN where there is no finite answer, as where every film
    is a hit, or where some log odds part hits from misses; the slope also where all log odds are
    (nearly) the same.
    """
    spread = log_odds_N.std()
    has_slope = spread > _LEAST_SPREAD
    scale = spread if has_slope else 1.0
    centre = log_odds_N.mean()
    ones_N = np.ones(len(log_odds_N))
    design_NP = np.stack([ones_N, (log_odds_N - centre) / scale], axis=1)
    slope_B = _fit_draws(design_NP, np.zeros_like(ones_N), hit_N, weights_NB)[1] / scale
    intercept_B = _fit_draws(ones_N[:, None], log_odds_N, hit_N, weights_NB)[0]
    hits_B = hit_N @ weights_NB
    is_mixed_B = (hits_B > 0) & (hits_B < weights_NB.sum(axis=0))
    return np.where(is_mixed_B, intercept_B, np.nan), np.where(
        is_mixed_B & has_slope, slope_B, np.nan
    )


def _fit_draws(design_NP: Array, offset_N: Array, hit_N: Array, weights_NB: Array) -> Array:
    """As `_fit`, from the answer for all draws together: half the steps."""
    num = design_NP.shape[1]
    together_N1 = weights_NB.mean(axis=1, keepdims=True)
    start_P1 = _fit(design_NP, offset_N, hit_N, together_N1, np.zeros((num, 1)))
    start_PB = np.nan_to_num(np.repeat(start_P1, weights_NB.shape[1], axis=1))
    return _fit(design_NP, offset_N, hit_N, weights_NB, start_PB)


def _fit(
    design_NP: Array, offset_N: Array, hit_N: Array, weights_NB: Array, start_PB: Array
) -> Array:
    """Coefficients (P, B) of weighted logistic regressions, by Newton's method."""
    num_films, num = design_NP.shape
    found_PB = np.full((num, weights_NB.shape[1]), np.nan)
    products_NQ = (design_NP[:, :, None] * design_NP[:, None, :]).reshape(num_films, -1)
    open_B = np.arange(weights_NB.shape[1])  # draws that have not converged
    now_PB = start_PB
    for _ in range(_STEPS):
        chance_NB = expit(design_NP @ now_PB + offset_N[:, None])
        gradient_PB = design_NP.T @ (weights_NB * (hit_N[:, None] - chance_NB))
        chance_NB *= weights_NB * (1 - chance_NB)
        curvature_QB = products_NQ.T @ chance_NB
        # The trifle keeps a flat curvature solvable; it does not move the answer.
        curvature_BPP = curvature_QB.T.reshape(-1, num, num) + 1e-9 * np.eye(num)
        step_PB = np.linalg.solve(curvature_BPP, gradient_PB.T[..., None])[..., 0].T
        longest_B = np.abs(step_PB).max(axis=0)
        now_PB = now_PB + step_PB * np.minimum(1, _LONGEST_STEP / np.maximum(longest_B, 1e-300))
        done_B = longest_B < _TOLERANCE
        found_PB[:, open_B[done_B]] = now_PB[:, done_B]
        open_B, now_PB = open_B[~done_B], now_PB[:, ~done_B]
        if not len(open_B):
            break
        if done_B.any():
            weights_NB = weights_NB[:, ~done_B]
    return found_PB
