import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cxr_model.reliability.recalibration import intercept_and_slope


def test_each_draw_equals_the_fit_of_its_repeated_rows() -> None:
    generator = np.random.default_rng(0)
    log_odds = 2 * generator.normal(size=200)
    hit = (generator.random(200) < expit(0.6 * log_odds - 0.5)).astype(float)
    weights = generator.integers(0, 4, size=(200, 5)).astype(float)
    _, slope = intercept_and_slope(log_odds, hit, weights)
    for b in range(5):
        fitted = LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000).fit(
            log_odds[:, None], hit, sample_weight=weights[:, b]
        )
        assert slope[b] == pytest.approx(fitted.coef_[0, 0], rel=1e-4)


def test_a_planted_shift_and_stretch_are_found() -> None:
    generator = np.random.default_rng(1)
    log_odds = 2 * generator.normal(size=50_000)
    stretched = (generator.random(50_000) < expit(0.5 * log_odds)).astype(float)
    shifted = (generator.random(50_000) < expit(log_odds - 0.7)).astype(float)
    assert intercept_and_slope(log_odds, stretched, np.ones((50_000, 1)))[1][0] == pytest.approx(
        0.5, abs=0.03
    )
    intercept, slope = intercept_and_slope(log_odds, shifted, np.ones((50_000, 1)))
    assert intercept[0] == pytest.approx(-0.7, abs=0.05)
    assert slope[0] == pytest.approx(1, abs=0.03)


def test_what_has_no_finite_answer_is_undefined() -> None:
    log_odds = np.linspace(-2, 2, 40)
    every = np.ones((40, 3))
    assert np.isnan(intercept_and_slope(log_odds, np.ones(40), every)).all()
    intercept, slope = intercept_and_slope(log_odds, (log_odds > 0.1).astype(float), every)
    assert np.isnan(slope).all()
    assert np.isfinite(intercept).all()
    hits = np.arange(40) % 4 < 3
    for nearly_alike in (np.full(40, 1.5), 1.5 + 1e-9 * log_odds):
        intercept, slope = intercept_and_slope(nearly_alike, hits.astype(float), every)
        assert np.isnan(slope).all()
        assert np.isfinite(intercept).all()
