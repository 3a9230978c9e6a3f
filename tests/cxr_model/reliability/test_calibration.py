"""Calibration against planted temperatures, other libraries and simulated truth."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from forecasts import draw_forecasts
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from cxr_model.reliability.calibration import (
    TEMPERATURES,
    calibration_error,
    equal_mass_edges,
    fit_temperature,
    measure_calibration,
    temper,
)

Array = NDArray[Any]


def one(num: int) -> Array:
    return np.ones((num, 1))


def measure(truth: Array, scores: Array, groups: Array, **other: Any) -> dict[str, Any]:
    classes = [f"class {c}" for c in range(scores.shape[1])]
    settings = {"temperature": 1.0, "draws": 200, "seed": 0} | other
    return measure_calibration(truth, scores, groups, classes, **settings)


def test_tempering_is_the_softmax_of_scaled_logits() -> None:
    logits = torch.tensor(np.random.default_rng(0).normal(size=(50, 4)) * 5)
    for temperature in (0.5, 1.0, 3.0):
        np.testing.assert_allclose(
            temper(logits.softmax(dim=1).numpy(), temperature),
            (logits / temperature).softmax(dim=1),
            atol=1e-12,
        )
    assert temper(np.array([[1.0, 0.0]]), 0.5).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.5])
def test_a_planted_temperature_is_found_again(planted: float) -> None:
    generator = np.random.default_rng(1)
    truth, stated, _, _ = draw_forecasts(generator, 20_000, temperature=1 / planted)
    assert fit_temperature(truth, stated) == pytest.approx(planted, rel=0.05)


def test_the_fitted_temperature_has_the_least_log_loss() -> None:
    truth, stated, _, _ = draw_forecasts(np.random.default_rng(2), 300, temperature=0.6)
    found = fit_temperature(truth, stated)
    least = log_loss(truth, temper(stated, found))
    for other in np.geomspace(*TEMPERATURES, 60):
        assert least <= log_loss(truth, temper(stated, other)) + 1e-9


def test_without_a_best_temperature_the_bound_is_taken_and_told() -> None:
    truth = np.arange(30) % 3
    right = np.full((30, 3), 0.1) + 0.7 * np.eye(3)[truth]
    wrong = np.full((30, 3), 0.1) + 0.7 * np.eye(3)[(truth + 1) % 3]
    for scores, bound in ((right, TEMPERATURES[0]), (wrong, TEMPERATURES[1])):
        found = fit_temperature(truth, scores)
        assert found == pytest.approx(bound)
        record = measure(truth, scores, np.arange(30), temperature=found)
        assert record["temperature_at_bound"]
        assert record["verdict"].endswith("the temperature is at the bound of what is looked for")


def test_the_error_equals_that_of_torchmetrics_on_bins_of_equal_width() -> None:
    truth, stated, _, _ = draw_forecasts(np.random.default_rng(3), 500, temperature=0.5)
    edges = np.linspace(0, 1, 16)[1:-1]
    confidence, hit = stated.max(axis=1), 1.0 * (stated.argmax(axis=1) == truth)
    error, _ = calibration_error(confidence, hit, one(500), edges)
    expected = multiclass_calibration_error(
        torch.tensor(stated), torch.tensor(truth), num_classes=3, n_bins=15
    )
    assert error[0] == pytest.approx(float(expected), abs=1e-6)
    own, _ = calibration_error(stated[:, 1], 1.0 * (truth == 1), one(500), edges)
    expected = binary_calibration_error(
        torch.tensor(stated[:, 1]), torch.tensor(truth == 1).int(), n_bins=15
    )
    assert own[0] == pytest.approx(float(expected), abs=1e-6)


def test_bins_hold_equally_many_films_and_ties_stay_together() -> None:
    confidence = np.random.default_rng(4).random(300)
    bins = np.searchsorted(equal_mass_edges(confidence), confidence, side="right")
    assert np.bincount(bins).tolist() == [20] * 15
    assert len(equal_mass_edges(np.repeat([0.5, 1.0], 150))) <= 2


def test_scores_equal_those_of_scikit_learn() -> None:
    truth, stated, _, groups = draw_forecasts(np.random.default_rng(5), 400, temperature=0.7)
    found = measure(truth, stated, groups, temperature=2.0)
    for scores, figures in ((stated, found["before"]), (temper(stated, 2.0), found["after"])):
        assert figures["brier"]["value"] == pytest.approx(
            brier_score_loss(truth, scores, scale_by_half=False)
        )
        assert figures["nll"]["value"] == pytest.approx(log_loss(truth, scores))
        confidence, hit = scores.max(axis=1), scores.argmax(axis=1) == truth
        log_odds = np.log(confidence / (1 - confidence))[:, None]
        slope = LogisticRegression(C=np.inf, tol=1e-8).fit(log_odds, hit).coef_[0, 0]
        assert figures["slope"]["value"] == pytest.approx(slope, rel=1e-4)


def test_an_overconfident_network_is_told_by_slope_intercept_and_error_and_mended() -> None:
    truth, stated, _, groups = draw_forecasts(np.random.default_rng(6), 3000, temperature=0.4)
    found = measure(truth, stated, groups, temperature=fit_temperature(truth, stated))
    before, after = found["before"], found["after"]
    assert before["slope"]["ci_high"] < 1
    assert before["intercept"]["ci_high"] < 0
    assert before["ece"]["ci_low"] > 0.1
    assert before["ece"]["value"] > before["ece_if_calibrated"]["high"]
    for name, ideal in (("slope", 1), ("intercept", 0), ("ece", 0)):
        assert after[name]["ci_low"] <= ideal <= after[name]["ci_high"], name
    assert after["nll"]["value"] < before["nll"]["value"]
    assert found["passed"]
    assert found["verdict"].startswith(
        "no calibration error of the most probable class above 0.05 is shown, and one above 0.1 "
        "ruled out, on 3000 films"
    )
    left = measure(truth, stated, groups)
    assert left["passed"] is False
    assert left["verdict"].startswith("a calibration error of the most probable class above 0.05")


def _true_intercept(stated: Array, true: Array) -> float:
    """What the log odds stated must be shifted by, that as many come true as is expected."""
    return brentq(lambda shift: (expit(logit(stated) + shift) - true).mean(), -3, 3)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_intervals_cover_the_truth_about_19_times_in_20(temperature: float) -> None:
    """Films come in groups of two that are alike; the percentile interval of the error of a
    calibrated network would cover its 0 never."""
    _, stated, true, _ = draw_forecasts(np.random.default_rng(7), 100_000, temperature=temperature)
    rows, called = np.arange(len(stated)), stated.argmax(axis=1)
    gap = (stated - true)[rows, called]  # of one sign, so that bins do not matter
    truths = {
        "ece": abs(gap.mean()),
        "brier": ((stated - true) ** 2 + true * (1 - true)).sum(axis=1).mean(),
        "nll": -(true * np.log(stated)).sum(axis=1).mean(),
        "slope": temperature,
        "intercept": _true_intercept(stated[rows, called], true[rows, called]),
    }
    repetitions, generator = 60, np.random.default_rng(8)
    covered, passed = dict.fromkeys(truths, 0), 0
    for seed in range(repetitions):
        truth, scores, _, groups = draw_forecasts(
            generator, 150, films_per_group=2, temperature=temperature
        )
        found = measure(truth, scores, groups, draws=150, seed=seed)
        passed += found["passed"] is not False
        for name, value in truths.items():
            estimate = found["before"][name]
            covered[name] += estimate["ci_low"] - 1e-9 <= value <= estimate["ci_high"]
    for name, count in covered.items():
        assert 0.87 <= count / repetitions <= 1.0, (name, count)
    if temperature == 1:
        assert passed / repetitions >= 0.93
    else:
        assert passed / repetitions <= 0.6


def test_few_films_tell_neither_that_a_network_is_calibrated_nor_that_it_is_not() -> None:
    truth, stated, _, groups = draw_forecasts(np.random.default_rng(9), 30)
    found = measure(truth, stated, groups)
    assert found["after"]["ece"]["ci_high"] > 0.1
    assert found["passed"] is None
    assert found["verdict"].startswith("too few films to tell: no calibration error above 0.05")


@pytest.mark.parametrize(("num_groups", "passed"), [(9, None), (10, False)])
def test_many_films_of_few_patients_do_not_tell_either(
    num_groups: int, passed: bool | None
) -> None:
    truth, stated, _, _ = draw_forecasts(np.random.default_rng(6), 3000, temperature=0.4)
    found = measure(truth, stated, np.arange(3000) % num_groups)
    assert found["after"]["ece"]["ci_low"] > 0.05
    assert found["passed"] is passed


def test_a_network_that_is_never_wrong_has_no_slope_and_warns_of_nothing() -> None:
    truth = np.arange(60) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(truth, np.eye(3)[truth], np.arange(60), temperature=TEMPERATURES[0])
    assert found["passed"]
    for figures in (found["before"], found["after"]):
        assert figures["slope"]["value"] is None
        assert figures["intercept"]["value"] is None
        for name in ("ece", "brier", "nll"):
            assert figures[name]["ci_high"] > 0.05, name
    assert found["after"]["ece"]["value"] == 0
    assert found["after"]["bins"][0]["ci_low"] > 0.9
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("num_misses", [0, 2])
def test_a_miss_or_two_among_ten_patients_do_not_tell_that_a_network_is_calibrated(
    num_misses: int,
) -> None:
    truth = np.arange(200) % 3
    stated = np.eye(3)[truth] * 0.96 + 0.0125
    stated[:num_misses] = np.roll(stated[:num_misses], 1, axis=1)
    found = measure(truth, stated, np.arange(200) // 20)
    assert found["after"]["ece"]["ci_high"] > 0.2
    assert found["passed"] is None


def test_a_dozen_films_without_a_miss_do_not_tell_that_a_network_is_calibrated() -> None:
    truth = np.arange(12) % 3
    found = measure(truth, np.eye(3)[truth] * 0.998 + 0.001, np.arange(12))
    assert found["after"]["ece"]["ci_high"] > 0.2
    assert found["passed"] is None
