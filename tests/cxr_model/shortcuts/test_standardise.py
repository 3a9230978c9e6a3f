"""Standardised films have one histogram and one shape."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr_model.errors import DataError
from cxr_model.films import FilmSet
from cxr_model.run_folder import sha256_file
from cxr_model.shortcuts.standardise import match_histogram, mean_histogram, standardised_films


def ramp(low: int, high: int) -> np.ndarray:
    return np.linspace(low, high, 64 * 64).reshape(64, 64).astype(np.uint8)


def test_matched_film_has_the_references_levels_and_keeps_their_order() -> None:
    reference = np.bincount(ramp(100, 200).ravel(), minlength=256) / 64**2
    film = ramp(0, 60)[::-1]
    matched = match_histogram(film, reference)
    assert abs(int(matched.min()) - 100) <= 2
    assert abs(int(matched.max()) - 200) <= 2
    assert abs(matched.mean() - 150) < 1
    order = np.argsort(film.ravel(), kind="stable")
    assert (np.diff(matched.ravel()[order].astype(int)) >= 0).all()


def test_film_that_has_the_reference_histogram_stays_as_it_is() -> None:
    film = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    reference = np.bincount(film.ravel(), minlength=256) / film.size
    assert np.array_equal(match_histogram(film, reference), film)


def test_every_class_weighs_alike_in_the_mean_histogram() -> None:
    dark, bright = torch.zeros(3, 1, 8, 8), torch.full((1, 1, 8, 8), 200)
    films = FilmSet(
        pixels_NCHW=torch.cat([dark, bright]).byte(),
        rows_N=torch.arange(4),
        targets_N=torch.tensor([0, 0, 0, 1]),
    )
    shares = mean_histogram(films, 3)
    assert (shares[0], shares[200]) == (0.5, 0.5)


def test_films_are_cut_to_their_central_square(tmp_path: Path) -> None:
    wide = np.zeros((40, 100), dtype=np.uint8)
    wide[:, 30:70] = np.arange(40)[:, None] + 100
    Image.fromarray(wide).save(tmp_path / "wide.png")
    tall = np.rot90(wide).copy()
    Image.fromarray(tall).save(tmp_path / "tall.png")
    level = np.full(256, 1 / 256)
    paths = ["wide.png", "tall.png"]
    digests = [sha256_file(tmp_path / path) for path in paths]
    table = pd.DataFrame({"path": paths, "sha256": digests})
    films = standardised_films(tmp_path, table, 40, "grey", level)
    assert films.shape == (2, 1, 40, 40)
    assert films.dtype == torch.uint8
    assert torch.equal(films[1, 0], torch.rot90(films[0, 0]))
    assert len(films[0].unique()) == 40


@pytest.mark.parametrize("is_there", [True, False])
def test_film_that_has_gone_or_is_another_one_is_named(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        Image.fromarray(ramp(0, 255)).save(tmp_path / "other.png")
    table = pd.DataFrame({"path": ["other.png"], "sha256": ["0" * 64]})
    with pytest.raises(DataError, match=r"other\.png: is not as indexed .*index the films anew"):
        standardised_films(tmp_path, table, 32, "grey", np.full(256, 1 / 256))
