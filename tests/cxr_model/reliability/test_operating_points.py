import json

import numpy as np
import pytest
from forecasts import draw_forecasts
from sklearn.metrics import confusion_matrix, recall_score

from cxr_model.errors import DataError
from cxr_model.reliability.operating_points import (
    PREVALENCES,
    choose_thresholds,
    measure_operating_points,
    predictive_values,
    rates_at,
)

CLASSES = ["a", "b", "c"]


@pytest.mark.parametrize("decimals", [16, 1])
def test_thresholds_are_the_best_of_all_that_could_be_chosen(decimals: int) -> None:
    truth, scores, _, _ = draw_forecasts(np.random.default_rng(0), 200)
    scores = scores.round(decimals)
    chosen = choose_thresholds(truth, scores, CLASSES)
    for c, label in enumerate(CLASSES):
        every = [
            (cut, rates_at(truth, scores[:, c], c, cut))
            for cut in [*np.unique(scores[:, c]), np.nextafter(scores[:, c].max(), 2)]
        ]
        at = {
            rule: rates_at(truth, scores[:, c], c, threshold)
            for rule, threshold in chosen[label].items()
        }
        index = max(rates["sensitivity"] + rates["specificity"] for _, rates in every)
        assert sum(at["youden"].values()) == pytest.approx(index)
        sensitive = [rates for _, rates in every if rates["sensitivity"] >= 0.95]
        assert at["sensitivity-0.95"] == sensitive[-1]
        specific = [rates for _, rates in every if rates["specificity"] >= 0.95]
        assert at["specificity-0.95"] == specific[0]


def test_rates_equal_those_of_scikit_learn() -> None:
    truth, scores, _, groups = draw_forecasts(np.random.default_rng(1), 200, films_per_group=2)
    thresholds = choose_thresholds(truth, scores, CLASSES)
    rows = measure_operating_points(truth, scores, groups, CLASSES, thresholds, draws=200, seed=0)
    assert len(rows) == 9
    for row in rows:
        c = CLASSES.index(row["class"])
        called = scores[:, c] >= row["threshold"]
        sensitivity = recall_score(truth == c, called)
        specificity = recall_score(truth == c, called, pos_label=False)
        assert row["sensitivity"]["value"] == pytest.approx(sensitivity)
        assert row["specificity"]["value"] == pytest.approx(specificity)
        assert row["sensitivity"]["n"] + row["specificity"]["n"] == len(truth)
        for name in ("ppv", "npv"):
            for estimate in row[name].values():
                assert estimate["ci_low"] <= estimate["value"] <= estimate["ci_high"]
    json.dumps(rows, allow_nan=False)


def test_at_the_films_own_prevalence_predictive_values_are_the_plain_shares() -> None:
    truth, scores, _, _ = draw_forecasts(np.random.default_rng(2), 300)
    (tn, fp), (fn, tp) = confusion_matrix(truth == 0, scores[:, 0] >= 0.4)
    rates = rates_at(truth, scores[:, 0], 0, 0.4)
    found = predictive_values(
        np.float64(rates["sensitivity"]), np.float64(rates["specificity"]), (truth == 0).mean()
    )
    assert found["ppv"] == pytest.approx(tp / (tp + fp))
    assert found["npv"] == pytest.approx(tn / (tn + fn))


def test_no_false_alarm_among_few_films_does_not_make_a_predictive_value_certain() -> None:
    truth = np.repeat([0, 1], 50)
    scores = np.eye(2)[truth]
    (row,) = (
        row
        for row in measure_operating_points(
            truth, scores, np.arange(100), ["a", "b"], {"a": {"youden": 0.5}, "b": {}},
            draws=200, seed=0,
        )
    )  # fmt: skip
    assert row["specificity"]["value"] == 1
    assert row["specificity"]["ci_low"] == pytest.approx(0.929, abs=0.001)  # Wilson, 50 of 50
    assert row["ppv"]["0.01"]["value"] == 1
    assert row["ppv"]["0.01"]["ci_low"] < 0.15
    assert row["ppv"]["0.01"]["ci_high"] == 1


def test_predictive_values_of_one_patients_films_are_no_surer_than_the_sensitivity() -> None:
    truth = np.repeat([0, 1], [30, 70])
    is_called = np.concatenate([np.arange(30) < 24, np.arange(70) < 10])
    scores = np.stack([is_called, ~is_called], axis=1).astype(float)
    groups = np.concatenate([np.zeros(30), np.arange(1, 71)])
    (row,) = measure_operating_points(
        truth, scores, groups, ["a", "b"], {"a": {"youden": 0.5}, "b": {}}, draws=200, seed=0
    )
    specificity = np.float64(row["specificity"]["value"])
    for end in ("ci_low", "ci_high"):
        sensitivity = np.float64(row["sensitivity"][end])
        at_end = predictive_values(sensitivity, specificity, 0.2)["npv"]
        assert abs(row["npv"]["0.2"][end] - at_end) < 0.01
    assert row["sensitivity"]["ci_low"] < 0.2


def test_intervals_of_predictive_values_cover_the_truth_about_19_times_in_20() -> None:
    """Thresholds given, films in groups of two that are alike, prevalence other than theirs."""
    thresholds = {"a": {"youden": 0.4}, "b": {}, "c": {}}
    truth, scores, _, _ = draw_forecasts(np.random.default_rng(3), 400_000)
    rates = rates_at(truth, scores[:, 0], 0, 0.4)
    true = predictive_values(
        np.float64(rates["sensitivity"]), np.float64(rates["specificity"]), 0.05
    )
    generator = np.random.default_rng(4)
    covered = {"ppv": 0, "npv": 0}
    for seed in range(200):
        truth, scores, _, groups = draw_forecasts(generator, 150, films_per_group=2)
        (row,) = measure_operating_points(
            truth, scores, groups, CLASSES, thresholds, draws=300, seed=seed
        )
        for name in covered:
            estimate = row[name]["0.05"]
            covered[name] += estimate["ci_low"] <= true[name] <= estimate["ci_high"]
    for name, count in covered.items():
        assert 0.90 <= count / 200 <= 0.99, (name, count)


def test_a_rule_that_calls_no_film_has_a_threshold_that_calls_none() -> None:
    truth = np.array([0, 1, 1])
    for best in (0.9, 1.0):
        scores = np.array([[0.1, 0.9], [best, 1 - best], [0.5, 0.5]])
        threshold = choose_thresholds(truth, scores, ["a", "b"])["a"]["specificity-0.95"]
        assert (scores[:, 0] < threshold).all()
        rows = measure_operating_points(
            truth, scores, np.arange(3), ["a", "b"], {"a": {"x": threshold}, "b": {}},
            draws=200, seed=0,
        )  # fmt: skip
        assert [rows[0]["ppv"][str(share)]["value"] for share in PREVALENCES] == [None] * 3


def test_a_class_without_validation_films_is_told() -> None:
    with pytest.raises(
        DataError, match=r"^class 'b': 0 of 3 validation films are of it.*raise spl"
    ):
        choose_thresholds(np.array([0, 0, 2]), np.full((3, 3), 1 / 3), CLASSES)
