"""Copies planted among phantoms and, with CXR_REAL_DATA, among real films."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from cxr_model.cache import open_film
from cxr_model.data_config import DataConfig, LabelConfig, PhantomConfig
from cxr_model.hygiene.near_duplicates import (
    MAX_DISTANCE,
    PLANTED,
    alike_at_a_glance,
    components,
    find_links,
    thumbnail_distances,
)
from cxr_model.hygiene.perceptual_hash import perceptual_hashes
from cxr_model.hygiene.thumbnails import equalise, is_blank
from cxr_model.index import build_index
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.splits import group_films

Pair = tuple[str, str]


def pairs_of(index: pd.DataFrame) -> set[Pair]:
    """Every two films that share their copies' name."""
    films = index[index["copies"] != ""]
    return {
        (one, two)
        for _, paths in films.groupby("copies")["path"]
        for one in paths
        for two in paths
        if one < two
    }


def rates(found: set[Pair], planted: set[Pair]) -> tuple[float, float]:
    """Recall and precision."""
    hits = len(found & planted)
    return hits / len(planted), hits / max(1, len(found))


@pytest.mark.parametrize("seed", range(3))
def test_near_copies_of_phantoms_are_found_and_nothing_else(tmp_path: Path, seed: int) -> None:
    config = PhantomConfig(num_films=60, num_near_duplicates=30, films_per_patient=2, seed=seed)
    truth = write_phantoms(tmp_path / "films", config)
    index = build_index(tmp_path / "films", DataConfig(), LabelConfig())
    planted = {(min(pair), max(pair)) for pair in truth.near_duplicates}
    recall, precision = rates(pairs_of(index), planted)
    assert recall >= 0.95
    assert precision >= 0.95


def test_a_glance_keeps_a_re_exposed_film_and_drops_its_negative_and_others() -> None:
    rng = np.random.default_rng(0)
    clouds = gaussian_filter(rng.normal(size=(50, 32, 32)), (0, 3, 3))
    films = (128 + 50 * clouds / clouds.std()).clip(1, 255).astype(np.uint8)
    darker = (255 * (films / 255) ** 1.18).round().astype(np.uint8)
    thumbnails = np.concatenate([films, darker, 255 - films])
    places = np.arange(50)
    assert alike_at_a_glance(thumbnails, places, 50 + places).all()
    assert not alike_at_a_glance(thumbnails, places, 100 + places).any()
    assert not alike_at_a_glance(thumbnails, places, np.roll(places, 1)).any()


def test_films_of_a_clean_set_are_no_copies(cached_phantoms: tuple[pd.DataFrame, Path]) -> None:
    index, _ = cached_phantoms
    assert set(index["copies"]) == {""}
    assert index["phash"].str.fullmatch("[0-9a-f]{16}").all()
    assert index["phash"].nunique() > 0.9 * len(index)


def test_the_hash_does_not_hang_on_the_exposure() -> None:
    clouds = gaussian_filter(np.random.default_rng(0).normal(size=(32, 32)), 3)
    film = (30 + 200 * (clouds - clouds.min()) / np.ptp(clouds)).astype(np.uint8)
    darker = (255 * (film / 255) ** 1.18).round().astype(np.uint8)
    both = np.stack([film, darker])
    bright, dark = perceptual_hashes(both)
    assert np.bitwise_count(bright ^ dark) <= 1
    assert abs(equalise(both)[0] - equalise(both)[1]).max() < 0.02
    assert thumbnail_distances(both, np.array([0]), np.array([1]))[0] < MAX_DISTANCE


def test_blank_films_are_nobodys_copy() -> None:
    thumbnails = np.full((50, 32, 32), 200, dtype=np.uint8)
    thumbnails[:, 5, 5] = np.arange(150, 200)
    assert is_blank(thumbnails).sum() > 40
    hidden = thumbnails[is_blank(thumbnails)]
    assert find_links(perceptual_hashes(hidden), hidden) == []


def test_a_heap_of_one_picture_is_one_component_with_few_links() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (32, 32)).repeat(600, axis=0).reshape(32, 600, 32)
    heap = (picture.transpose(1, 0, 2) * 0.9 + rng.normal(0, 2, (600, 32, 32))).clip(0, 255)
    thumbnails = heap.astype(np.uint8)
    links = find_links(perceptual_hashes(thumbnails), thumbnails)
    assert len(set(components(600, links))) == 1
    assert len(links) < 20 * 600


def test_the_search_can_be_left_out(tmp_path: Path) -> None:
    config = PhantomConfig(num_films=15, num_near_duplicates=5)
    write_phantoms(tmp_path / "films", config)
    index = build_index(tmp_path / "films", DataConfig(), LabelConfig(), near_duplicates=False)
    assert set(index["copies"]) == {""}


@pytest.mark.parametrize("near", [True, False])
def test_films_of_equal_pixels_are_copies_whatever_their_format_and_blank_ones_too(
    tmp_path: Path, near: bool
) -> None:
    root = tmp_path / "films"
    write_phantoms(root, PhantomConfig(num_films=15))
    jpeg = next((root / "Normal").glob("*.jpg"))
    with Image.open(jpeg) as image:
        image.save(jpeg.with_suffix(".tiff"))
    for name, grey, size in (("one", 0, (70, 60)), ("other", 1, (70, 60)), ("third", 0, (60, 70))):
        Image.new("L", size, grey).save(root / "Normal" / f"{name}.png")
    Image.new("L", (70, 60), 0).save(root / "COVID-19" / "black.bmp")
    index = build_index(root, DataConfig(), LabelConfig(), near_duplicates=near)
    jpeg_path = jpeg.relative_to(root)
    assert pairs_of(index) == {
        ("COVID-19/black.bmp", "Normal/one.png"),
        (jpeg_path.as_posix(), jpeg_path.with_suffix(".tiff").as_posix()),
    }
    assert group_films(index).nunique() == len(index) - 2


def altered(data: bytes, rng: np.random.Generator) -> bytes:
    """A film as another archive would hold it, in one of three ways."""
    with open_film(data) as opened:
        image = opened.convert("L")
    crops = rng.uniform(0.005, 0.015, 4)
    box = (*(crops[:2] * image.size), *((1 - crops[2:]) * image.size))
    image = image.crop(tuple(round(edge) for edge in box))
    gamma = float(rng.choice([0.85, 0.92, 1.08, 1.18]))
    image = image.point([round(255 * (value / 255) ** gamma) for value in range(256)])
    kind = rng.integers(3)
    if kind == 1:
        image = image.resize((round(0.6 * image.width), round(0.6 * image.height)))
    if kind == 2:
        image = ImageEnhance.Contrast(image).enhance(1.15)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(60, 92)))
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="set CXR_REAL_DATA")
def test_copies_of_real_films_are_found_and_films_of_other_days_are_not(tmp_path: Path) -> None:
    root = Path(os.environ["CXR_REAL_DATA"])
    known = build_index(root, DataConfig(), LabelConfig())
    rng = np.random.default_rng(0)
    films = known.groupby("label").head(250)
    planted = set()
    for number, path in enumerate(films["path"]):
        file = tmp_path / "films" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to((root / path).resolve())
        if number % 4 == 0:
            copy = file.with_name(f"copy-{number}.jpg")
            copy.write_bytes(altered((root / path).read_bytes(), rng))
            one, two = sorted([path, copy.relative_to(tmp_path / "films").as_posix()])
            planted.add((one, two))
    found = pairs_of(build_index(tmp_path / "films", DataConfig(), LabelConfig()))
    # The films' own copies, and what hangs together through them, are no false alarms.
    own = {path for pair in pairs_of(known) for path in pair}
    own |= set(known.loc[known.duplicated("sha256", keep=False), "path"])
    found = {pair for pair in found if not own & set(pair)}
    planted = {pair for pair in planted if not own & set(pair)}
    recall, precision = rates(found, planted)
    assert recall >= PLANTED["recall"]
    assert precision >= PLANTED["precision"]


@pytest.mark.real_data
@pytest.mark.skipif("CXR_REAL_DATA" not in os.environ, reason="set CXR_REAL_DATA")
def test_one_pair_of_the_real_films_shows_one_picture() -> None:
    index = build_index(Path(os.environ["CXR_REAL_DATA"]), DataConfig(), LabelConfig())
    folder = "COVID-19/"
    assert pairs_of(index) == {
        (
            folder + "E63574A7-4188-4C8D-8D17-9D67A18A1AFA.jpeg",
            folder + "F4341CE7-73C9-45C6-99C8-8567A5484B63.jpeg",
        )
    }
