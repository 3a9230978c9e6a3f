import numpy as np
import pytest
from forecasts import Array, draw_forecasts

from cxr_model.reliability.selective import (
    LEAST_COVERAGE,
    choose_abstention,
    measure_selective,
    risk_coverage,
)


def confidence_and_hits(seed: int, num: int = 300) -> tuple[Array, Array]:
    truth, scores, _, _ = draw_forecasts(np.random.default_rng(seed), num)
    return scores.max(axis=1), (scores.argmax(axis=1) == truth).astype(float)


def test_the_area_is_the_mean_risk_over_all_coverages() -> None:
    confidence, hit = confidence_and_hits(0)
    order = np.argsort(-confidence)
    expected = np.mean([1 - hit[order[:k]].mean() for k in range(1, len(hit) + 1)])
    found = measure_selective(confidence, hit, np.arange(300), 0.5, "", draws=200, seed=0)
    assert found["aurc"]["value"] == pytest.approx(expected)
    assert found["aurc"]["ci_low"] < expected < found["aurc"]["ci_high"]


def test_the_curve_ends_at_the_error_rate_and_ties_are_answered_together() -> None:
    confidence, hit = confidence_and_hits(1)
    cuts, coverage, risk = risk_coverage(confidence.round(1), hit)
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(1 - hit.mean())
    for cut, share, wrong in zip(cuts, coverage, risk, strict=True):
        answered = confidence.round(1) >= cut
        assert share == pytest.approx(answered.mean())
        assert wrong == pytest.approx(1 - hit[answered].mean())


def test_a_confidence_that_says_nothing_has_the_error_rate_for_its_area() -> None:
    hit = (np.arange(100) % 4 > 0).astype(float)
    found = measure_selective(np.full(100, 0.7), hit, np.arange(100), 0.0, "", draws=200, seed=0)
    assert found["aurc"]["value"] == pytest.approx(0.25)
    assert found["coverage"] == [1.0]


def test_as_few_films_as_possible_are_left_unanswered() -> None:
    confidence, hit = confidence_and_hits(2)
    wanted = float(hit.mean() + 0.05)
    threshold, rule = choose_abstention(confidence, hit, wanted)
    assert rule == f"accuracy of the answered validation films at least {wanted:g}"
    answered = confidence >= threshold
    assert hit[answered].mean() >= wanted
    for cut in confidence[confidence < threshold]:
        assert hit[confidence >= cut].mean() < wanted


def test_nothing_is_left_unanswered_where_all_is_right_enough() -> None:
    confidence, hit = confidence_and_hits(3)
    assert choose_abstention(confidence, np.ones_like(hit), 0.95)[0] == 0.0


def test_an_accuracy_out_of_reach_leaves_half_the_films_answered_and_is_told() -> None:
    confidence = np.linspace(0.4, 0.9, 100)
    threshold, rule = choose_abstention(confidence, np.zeros(100), 0.95)
    assert (confidence >= threshold).mean() == LEAST_COVERAGE
    assert rule.endswith("not reached with 50% of them answered or more, so 50% are, of which "
                         "0.000 are right")  # fmt: skip


def test_figures_at_the_threshold_are_plain_shares_of_the_films() -> None:
    confidence, hit = confidence_and_hits(4)
    found = measure_selective(confidence, hit, np.arange(300), 0.7, "", draws=200, seed=0)
    answered = confidence >= 0.7
    assert found["coverage_at_threshold"]["value"] == pytest.approx(answered.mean())
    assert found["accuracy_at_threshold"]["value"] == pytest.approx(hit[answered].mean())
    assert found["accuracy_at_threshold"]["n"] == answered.sum()
    assert len(found["risk"]) <= 201


def test_a_faultless_share_is_not_certain() -> None:
    confidence, hits = confidence_and_hits(5)
    faultless, groups = np.ones_like(hits), np.arange(300)
    found = measure_selective(confidence, faultless, groups, 0.0, "", draws=50, seed=0)
    for name in ("coverage_at_threshold", "accuracy_at_threshold"):
        assert found[name]["ci_low"] < found[name]["value"] == found[name]["ci_high"] == 1
    assert found["aurc"]["value"] == found["aurc"]["ci_low"] == 0 < found["aurc"]["ci_high"]


def test_intervals_cover_the_truth_about_19_times_in_20() -> None:
    """Films in groups of two that are alike."""
    confidence, hit = confidence_and_hits(5, 400_000)
    order = np.argsort(-confidence)
    true = float((np.cumsum(1 - hit[order]) / np.arange(1, len(hit) + 1)).mean())
    generator, covered = np.random.default_rng(6), 0
    for seed in range(200):
        truth, scores, _, groups = draw_forecasts(generator, 150, films_per_group=2)
        hits = (scores.argmax(axis=1) == truth).astype(float)
        estimate = measure_selective(
            scores.max(axis=1), hits, groups, 0.5, "", draws=300, seed=seed
        )["aurc"]
        covered += estimate["ci_low"] <= true <= estimate["ci_high"]
    assert 0.90 <= covered / 200 <= 0.99, covered
