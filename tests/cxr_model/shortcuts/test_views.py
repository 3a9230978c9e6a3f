"""What a view hides is hidden, and nothing else is."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cxr_model.phantoms.drawing import draw_film
from cxr_model.shortcuts.views import (
    BORDER_ALONE,
    LUNGS_ALONE,
    NO_LUNGS,
    VIEWS,
    View,
    find_lungs,
    lung_boxes,
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


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_hidden_places_are_grey_and_the_rest_is_as_it_was(
    view: View, films: Tensor, lungs: Tensor
) -> None:
    before = films.clone()
    seen_BCHW = view.hide(films, lungs, GREY)
    hidden_B1HW = view.hidden(lungs).unsqueeze(1)
    assert 0 < hidden_B1HW.float().mean() < 1
    assert (seen_BCHW[hidden_B1HW] == GREY).all()
    assert torch.equal(seen_BCHW[~hidden_B1HW], films[~hidden_B1HW])
    assert torch.equal(films, before)


def test_box_holds_both_lungs_what_is_between_them_and_a_margin(lungs: Tensor) -> None:
    expected = torch.zeros_like(lungs)
    expected[:, 17:83, 12:88] = True
    assert torch.equal(lung_boxes(lungs), expected)


def test_no_view_without_lungs_shows_any_of_them(lungs: Tensor) -> None:
    assert not (lungs & ~NO_LUNGS.hidden(lungs)).any()
    assert not (lungs & ~BORDER_ALONE.hidden(lungs)).any()
    assert torch.equal(lungs, ~LUNGS_ALONE.hidden(lungs))


def test_lesions_of_phantoms_lie_behind_what_hides_the_lungs() -> None:
    left = []
    for seed in range(6):
        film = draw_film(np.random.default_rng(seed), "pneumonia", marker=False)
        pixels_1CHW = torch.from_numpy(film.image.copy())[None, None]
        # Views are of squares, as the cache holds them.
        square = torch.nn.functional.interpolate(pixels_1CHW.float(), size=(192, 192)).byte()
        mask = torch.nn.functional.interpolate(
            torch.from_numpy(film.mask)[None, None].float(), size=(192, 192)
        )[0].bool()
        for view in (NO_LUNGS, BORDER_ALONE):
            seen = mask & ~view.hidden(find_lungs(square))
            left.append(float(seen.sum() / mask.sum()))
    assert np.mean(left) < 0.02
    assert max(left) < 0.2
