import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxr_model.explanations.lung_field import LUNG_FIELD_QUALITY, lung_field
from cxr_model.phantoms.drawing import draw_film

SIDE = 192


def _small(mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    image = Image.fromarray(mask_HW).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image) >= 128


@pytest.fixture(scope="module")
def found_and_true() -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    rng = np.random.default_rng(11)
    pairs = []
    for label in ("normal", "pneumonia", "covid") * 5:
        film = draw_film(rng, label, marker=False)
        pixels = Image.fromarray(film.image).resize((SIDE, SIDE), Image.Resampling.BOX)
        pairs.append((lung_field(np.asarray(pixels)), _small(film.lungs)))
    return pairs


def test_the_lungs_of_phantoms_are_found_as_well_as_is_stated(
    found_and_true: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]],
) -> None:
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in found_and_true]
    iou = [(a & b).sum() / (a | b).sum() for a, b in found_and_true]
    for name, values in (("dice", dice), ("iou", iou)):
        stated = LUNG_FIELD_QUALITY[name]
        assert isinstance(stated, dict)
        assert np.mean(values) == pytest.approx(stated["mean"], abs=0.05)
        assert np.percentile(values, 5) > stated["p5"] - 0.05


def test_either_half_holds_a_lung_and_the_midline_none(
    found_and_true: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]],
) -> None:
    for mask_HW, _ in found_and_true:
        assert mask_HW[:, : SIDE // 2].mean() > 0.1
        assert mask_HW[:, SIDE // 2 :].mean() > 0.1
        assert not mask_HW[:, SIDE // 2 - 2 : SIDE // 2 + 2].any()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_film_has_the_usual_outline(grey: int) -> None:
    mask_HW = lung_field(np.full((80, 100), grey, dtype=np.uint8))
    assert mask_HW.shape == (80, 100)
    assert 0.2 < mask_HW.mean() < 0.5
    assert mask_HW[36, 28]
    assert not mask_HW[:, 50].any()


def test_a_mask_does_not_hang_on_exposure() -> None:
    film = draw_film(np.random.default_rng(3), "normal", marker=False).image
    darker = (film * 0.5 + 20).astype(np.uint8)
    first, second = lung_field(film), lung_field(darker)
    assert (first & second).sum() / (first | second).sum() > 0.97
