"""Figures of a probe agree with scikit-learn's, and differences are paired."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from cxr_model.bootstrap import Bootstrap
from cxr_model.intervals import mean_of_rates, proportion_interval
from cxr_model.shortcuts.scores import one_hot


def make_bootstrap(num_films: int = 90, num_classes: int = 3) -> Bootstrap:
    return Bootstrap(
        truth_N=np.arange(num_films) % num_classes,
        groups_N=np.arange(num_films) // 2,
        num_classes=num_classes,
        draws=400,
        seed=0,
    )


def test_balanced_accuracy_and_one_against_rest_agree_with_scikit_learn() -> None:
    bootstrap = make_bootstrap(91)
    called_N = np.random.default_rng(1).integers(3, size=91)
    called_NC = one_hot(called_N, 3)
    value, drawn_B, *_ = bootstrap.balanced_accuracy(called_NC)
    assert value == pytest.approx(balanced_accuracy_score(bootstrap.truth_N, called_N))
    assert np.percentile(drawn_B, 2.5) < value < np.percentile(drawn_B, 97.5)
    for label in range(3):
        value, drawn_B, *_ = bootstrap.one_against_rest(called_NC, label)
        expected = balanced_accuracy_score(bootstrap.truth_N == label, called_N == label)
        assert value == pytest.approx(expected)
        assert drawn_B.shape == (400,)


def test_shares_of_several_passes_count_as_their_mean() -> None:
    bootstrap = make_bootstrap()
    called = [np.random.default_rng(seed).integers(3, size=90) for seed in (1, 2)]
    passes = [bootstrap.balanced_accuracy(one_hot(called_N, 3))[0] for called_N in called]
    both = bootstrap.balanced_accuracy(one_hot(np.stack(called), 3).mean(axis=0))[0]
    assert both == pytest.approx(np.mean(passes))


def test_a_probe_less_itself_is_zero_in_every_draw() -> None:
    bootstrap = make_bootstrap()
    called_NC = one_hot(np.random.default_rng(1).integers(3, size=90), 3)
    first, second = (bootstrap.balanced_accuracy(called_NC).drawn_B for _ in range(2))
    assert not (first - second).any()


def test_draws_without_a_film_of_a_part_are_left_out() -> None:
    bootstrap = make_bootstrap(12)
    only_first = np.arange(12) < 2  # one group
    point_1, drawn_1B = bootstrap.means(np.ones((1, 12)), only_first[None])
    assert np.isnan(drawn_1B).any()
    estimate = bootstrap.estimate(mean_of_rates(point_1, drawn_1B, np.array([1])), 2)
    assert estimate == proportion_interval(1, 1) | {"n": 2}
    assert estimate["ci_low"] < 0.25


def test_a_difference_has_the_width_of_what_both_do_not_share() -> None:
    """Wilson's ends widen each rate's own interval; one of two probes that agree, not theirs."""
    bootstrap = make_bootstrap()
    called_N = bootstrap.truth_N.copy()
    called_N[:6] = (called_N[:6] + 1) % 3
    figure = bootstrap.balanced_accuracy(one_hot(called_N, 3))
    same = bootstrap.estimate(figure.less(figure))
    assert (same["ci_low"], same["ci_high"]) == (0.0, 0.0)
    perfect = bootstrap.balanced_accuracy(one_hot(bootstrap.truth_N, 3))
    both = bootstrap.estimate(perfect.less(perfect))
    assert both["ci_low"] < 0 < both["ci_high"]
