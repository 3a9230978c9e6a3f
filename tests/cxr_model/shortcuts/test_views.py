"""What a view hides is hidden, and nothing else is."""

import numpy as np
import pytest
import torch
from torch import Tensor

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
def test_hidden_places_are_grey_and_the_rest_is_as_it_was(
    name: str, films: Tensor, lungs: Tensor
) -> None:
    [view] = [each for each in views_of(lungs) if each.name == name]
    before = films.clone()
    seen_BCHW = view.hide(films, lungs, GREY)
    hidden_B1HW = view.hidden(lungs).unsqueeze(1)
    assert 0 < hidden_B1HW.float().mean() < 1
    assert (seen_BCHW[hidden_B1HW] == GREY).all()
    assert torch.equal(seen_BCHW[~hidden_B1HW], films[~hidden_B1HW])
    assert torch.equal(films, before)


def test_box_holds_the_lungs_of_all_films_and_is_the_same_in_each(lungs: Tensor) -> None:
    lungs = lungs.clone()
    lungs[1, 10:20, 40:95] = True
    expected = torch.zeros_like(lungs)
    expected[:, 10:80, 15:95] = True
    view = no_lungs(lungs)
    assert torch.equal(view.hidden(lungs), expected)
    # Whatever a film's own lungs are: what is hidden tells nothing of them.
    assert torch.equal(view.hidden(torch.zeros_like(lungs)), expected)


def test_no_view_without_lungs_shows_any_of_them(lungs: Tensor) -> None:
    assert not (lungs & ~no_lungs(lungs).hidden(lungs)).any()
    assert not (lungs & ~BORDER_ALONE.hidden(lungs)).any()
    assert torch.equal(lungs, ~LUNGS_ALONE.hidden(lungs))


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
    lungs_NHW = find_lungs(torch.cat(squares))
    for view in (no_lungs(lungs_NHW), BORDER_ALONE):
        for mask, hidden_HW in zip(masks, view.hidden(lungs_NHW), strict=True):
            left[view.name].append(float((mask & ~hidden_HW).sum() / mask.sum()))
    for shares in left.values():
        assert np.mean(shares) < 0.02
        assert max(shares) < 0.2
