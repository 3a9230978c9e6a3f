"""Damaged films: what every kind of damage and every level promises."""

from itertools import pairwise

import numpy as np
import pytest

from cxr_model.cache import Pixels
from cxr_model.reliability.perturbations import PERTURBATIONS, Perturbation
from cxr_model.reliability.strangers import FROM_FILMS, STRANGERS

BY_NAME = {perturbation.name: perturbation for perturbation in PERTURBATIONS}


def film(color: str = "grey", side: int = 96) -> Pixels:
    """A smooth picture with an edge."""
    across, down = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    grey = 60 + 80 * across + 40 * np.sin(9 * down) + 60 * (across > 0.6)
    pixels = np.clip(grey, 0, 255).astype(np.uint8)
    return pixels if color == "grey" else np.stack([pixels, 255 - pixels, pixels // 2], axis=-1)


def damaged(perturbation: Perturbation, level: float, color: str = "grey") -> Pixels:
    return perturbation.apply(film(color), level, np.random.default_rng(0))


def distance(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(float) - second).mean())


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: each.name)
def test_damage_keeps_shape_and_film_and_repeats_itself(
    perturbation: Perturbation, color: str
) -> None:
    original = film(color)
    for level in perturbation.levels:
        changed = damaged(perturbation, level, color)
        assert (changed.shape, changed.dtype) == (original.shape, np.uint8)
        np.testing.assert_array_equal(changed, damaged(perturbation, level, color))
        assert distance(changed, original) > 0
    np.testing.assert_array_equal(original, film(color))


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: each.name)
def test_the_further_a_level_is_from_clean_the_more_it_changes(perturbation: Perturbation) -> None:
    for side in (
        [level for level in perturbation.levels if level > perturbation.clean],
        [level for level in perturbation.levels if level < perturbation.clean],
    ):
        by_strength = sorted(side, key=lambda level: abs(level - perturbation.clean))
        strengths = [distance(damaged(perturbation, level), film()) for level in by_strength]
        # Resampling to just half of the side also moves the picture by a fraction of a pixel.
        assert all(b > 0.9 * a for a, b in pairwise(strengths))
        assert strengths == [] or strengths[-1] > strengths[0]


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: each.name)
def test_at_its_clean_level_damage_changes_next_to_nothing(perturbation: Perturbation) -> None:
    assert distance(damaged(perturbation, perturbation.clean), film()) < 1.0


def test_a_turn_leaves_no_black_corners() -> None:
    bright = np.full((64, 64), 200, dtype=np.uint8)
    for seed in range(4):
        turned = BY_NAME["rotation"].apply(bright, 20, np.random.default_rng(seed))
        assert turned.min() == 200


def test_text_is_white_and_every_word_adds_some() -> None:
    black = np.zeros((192, 192), dtype=np.uint8)
    counts = [
        (BY_NAME["text"].apply(black, level, np.random.default_rng(3)) > 128).sum()
        for level in BY_NAME["text"].levels
    ]
    assert 0 < counts[0] < counts[1] < counts[2] < 0.1 * black.size


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_has_the_films_shape_and_follows_from_the_seed(name: str, color: str) -> None:
    original = film(color)
    first, again, other = (
        STRANGERS[name](original, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert (first.shape, first.dtype) == (original.shape, np.uint8)
    np.testing.assert_array_equal(first, again)
    assert name in FROM_FILMS or (first != other).any()
    assert (first != original).any()


def test_natural_pictures_have_the_spectrum_of_photographs() -> None:
    """Amplitude falls about as 1/f: its slope in the double logarithm lies from -0.6 to -1.7."""
    rng = np.random.default_rng(0)
    for name in ("natural", "scene"):
        slopes = []
        for _ in range(8):
            grey = STRANGERS[name](np.zeros((128, 128), dtype=np.uint8), rng).astype(float)
            window = np.outer(np.hanning(128), np.hanning(128))
            amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))
            frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
            used = (frequency > 0.02) & (frequency < 0.3)
            slopes.append(np.polyfit(np.log(frequency[used]), np.log(amplitude[used] + 1e-9), 1)[0])
        assert -1.7 < np.mean(slopes) < -0.6, name
