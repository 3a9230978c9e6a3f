"""What a view hides is hidden, and nothing else is."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cxr_model.explanations.lung_field import lung_field
from cxr_model.films import FilmSet
from cxr_model.phantoms.drawing import draw_film
from cxr_model.shortcuts.views import (
    BORDER_ALONE,
    LUNGS_ALONE,
    find_lungs,
    no_lungs,
    views_of,
)

GREY = 77


@pytest.fixture(scope="module")
def films() -> Tensor:
    return torch.randint(100, 255, (3, 1, 100, 100), dtype=torch.uint8)


@pytest.fixture(scope="module")
def lungs() -> Tensor:
    lungs_BHW = torch.zeros(3, 100, 100, dtype=torch.bool)
    lungs_BHW[:, 20:80, 15:40] = True
    lungs_BHW[:, 25:75, 60:85] = True
    return lungs_BHW


@pytest.mark.parametrize("name", ["centre-50", "centre-70", "border", "lungs", "no-lungs"])
def test_hidden_places_are_grey_and_the_rest_is_as_it_was(name: str, films: Tensor) -> None:
    train = FilmSet(
        pixels_NCHW=films, rows_N=torch.arange(3), targets_N=torch.zeros(3, dtype=torch.int64)
    )
    [view] = [each for each in views_of(train) if each.name == name]
    before = films.clone()
    seen_BCHW = view.hide(films, GREY)
    hidden_B1HW = view.hidden(films).expand(3, -1, -1).unsqueeze(1)
    assert 0 < hidden_B1HW.float().mean() < 1
    assert (seen_BCHW[hidden_B1HW] == GREY).all()
    assert torch.equal(seen_BCHW[~hidden_B1HW], films[~hidden_B1HW])
    assert torch.equal(films, before)


def test_box_holds_the_lungs_of_all_films_and_is_the_same_in_each(
    films: Tensor, lungs: Tensor
) -> None:
    lungs = lungs.clone()
    lungs[1, 10:20, 40:95] = True
    expected = torch.zeros(1, 100, 100, dtype=torch.bool)
    expected[:, 10:80, 15:95] = True
    view = no_lungs(lungs.any(dim=0))
    # One mask for all films: what is hidden tells nothing of a film's own lungs.
    assert torch.equal(view.hidden(films), expected)


def test_no_view_without_lungs_shows_any_of_them(films: Tensor, lungs: Tensor) -> None:
    assert not (lungs & ~no_lungs(lungs.any(dim=0)).hidden(films)).any()
    assert not (lungs & ~BORDER_ALONE.hidden(films)).any()
    assert torch.equal(find_lungs(films), ~LUNGS_ALONE.hidden(films))


def test_lungs_of_a_coloured_film_are_those_of_its_luma() -> None:
    film = draw_film(np.random.default_rng(0), "normal", marker=False).image
    grey_HW = np.array(Image.fromarray(film).resize((192, 192)))
    tinted = np.stack([grey_HW, grey_HW // 2, 255 - grey_HW], axis=-1)
    luma_HW = np.array(Image.fromarray(tinted).convert("L"))
    pixels_1CHW = torch.from_numpy(tinted).permute(2, 0, 1)[None]
    assert np.array_equal(find_lungs(pixels_1CHW)[0].numpy(), lung_field(luma_HW))


def test_lesions_of_phantoms_lie_behind_what_hides_the_lungs() -> None:
    left: dict[str, list[float]] = {"no-lungs": [], "border": []}
    squares, masks = [], []
    for seed in range(6):
        film = draw_film(np.random.default_rng(seed), "pneumonia", marker=False)
        pixels_1CHW = torch.from_numpy(film.image.copy())[None, None]
        # Views are of squares, as the cache holds them.
        square = torch.nn.functional.interpolate(pixels_1CHW.float(), size=(192, 192)).byte()
        mask = torch.nn.functional.interpolate(
            torch.from_numpy(film.mask)[None, None].float(), size=(192, 192)
        )[0].bool()
        squares.append(square)
        masks.append(mask)
    films = torch.cat(squares)
    for view in (no_lungs(find_lungs(films).any(dim=0)), BORDER_ALONE):
        [hidden_HW] = view.hidden(films)
        for mask in masks:
            left[view.name].append(float((mask & ~hidden_HW).sum() / mask.sum()))
    for shares in left.values():
        assert np.mean(shares) < 0.02
        assert max(shares) < 0.2
