import tracemalloc

import numpy as np
import pytest

from cxr_model.hygiene.near_duplicates import find_links
from cxr_model.hygiene.perceptual_hash import perceptual_hashes
from cxr_model.hygiene.resemblance import find_unlike
from cxr_model.hygiene.thumbnails import Thumbnails, equalise, in_parts, is_blank


def _thumbnails(num_films: int) -> Thumbnails:
    return np.random.default_rng(0).integers(256, size=(num_films, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("num_films", [1, 1024, 2500])
def test_parts_together_are_the_whole(num_films: int) -> None:
    films = _thumbnails(num_films)
    np.testing.assert_array_equal(in_parts(equalise, films), equalise(films))


def test_a_look_at_more_films_holds_little_more() -> None:
    def peak_bytes(num_films: int) -> int:
        films = _thumbnails(num_films)
        tracemalloc.start()
        find_links(perceptual_hashes(films), films)
        find_unlike(films)
        is_blank(films)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = 4096, 12288  # the common picture is of 4,096 at most
    assert (peak_bytes(many) - peak_bytes(few)) / (many - few) < 1024
