"""Corners change hands and nothing else; only a network that reads them is caught."""

import numpy as np
import pytest
import torch

from cxr_model.bootstrap import Bootstrap
from cxr_model.shortcuts.exchange import Exchange, draw_donors, exchange_corners
from cxr_model.shortcuts.scores import Array

TRUTH = np.arange(60) % 3


def bootstrap() -> Bootstrap:
    return Bootstrap(truth_N=TRUTH, groups_N=np.arange(60), num_classes=3, draws=200, seed=0)


def test_only_the_four_corners_come_from_the_donor() -> None:
    films, donors = torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)
    mixed = exchange_corners(films, donors)
    assert mixed.sum() == 2 * 4 * 16
    assert mixed[:, :, :4, :4].all()
    assert mixed[:, :, -4:, -4:].all()
    assert mixed[:, :, :4, -4:].all()
    assert mixed[:, :, -4:, :4].all()
    assert not films.any()


def test_donors_are_other_films_of_the_class_asked_for() -> None:
    generator = np.random.default_rng(0)
    own = draw_donors(TRUTH, same_class=True, generator=generator)
    other = draw_donors(TRUTH, same_class=False, generator=generator)
    assert (TRUTH[own] == TRUTH).all()
    assert (own != np.arange(60)).all()
    assert (TRUTH[other] != TRUTH).all()
    assert set(TRUTH[other]) == {0, 1, 2}


def test_the_only_film_of_a_class_is_its_own_donor() -> None:
    truth_N = np.array([0, 1, 1])
    own = draw_donors(truth_N, same_class=True, generator=np.random.default_rng(0))
    assert own.tolist() == [0, 2, 1]


def make_exchange(across_KN: Array, within_KN: Array, given_KN: Array) -> dict[str, float]:
    record = Exchange(given_KN=given_KN, across_KN=across_KN, within_KN=within_KN).record(
        bootstrap()
    )
    return {name: record[name]["value"] for name in ("followed", "control", "excess")}


def test_network_that_reads_corners_follows_and_one_that_does_not_does_not() -> None:
    generator = np.random.default_rng(0)
    given_KN = np.stack(
        [TRUTH[draw_donors(TRUTH, same_class=False, generator=generator)] for _ in range(2)]
    )
    own_KN = np.stack([TRUTH, TRUTH])
    reader = make_exchange(given_KN, own_KN, given_KN)
    assert reader == {"followed": 1.0, "control": 0.0, "excess": 1.0}
    blind_N = generator.integers(3, size=60)  # wrong as often as not, whatever the corners
    blind_KN = np.stack([blind_N, blind_N])
    blind = make_exchange(blind_KN, blind_KN, given_KN)
    assert blind["excess"] == pytest.approx(0)
    assert blind["followed"] > 0.2
