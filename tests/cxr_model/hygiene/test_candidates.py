import numpy as np
import pytest

from cxr_model.hygiene.candidates import MAX_BITS, near_hashes
from cxr_model.hygiene.near_duplicates import Link, components


def random_hashes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def turn_bits(hashes: np.ndarray, num_bits: int, rng: np.random.Generator) -> np.ndarray:
    """Each hash with as many of its bits turned."""
    places = rng.permuted(np.tile(np.arange(64), (len(hashes), 1)), axis=1)[:, :num_bits]
    turned = np.uint64(1) << places.astype(np.uint64)
    return hashes ^ np.bitwise_xor.reduce(turned, axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_they_are_the_very_pairs_that_a_comparison_of_all_finds(seed: int) -> None:
    # Few bits are free, so that many pairs are near, and some are equal.
    hashes = random_hashes(400, seed) & np.uint64(0x0F0F_00FF_0001_0F0F)
    first, second = np.triu_indices(len(hashes), 1)
    bits = np.bitwise_count(hashes[first] ^ hashes[second])
    expected = set(zip(first[bits <= MAX_BITS], second[bits <= MAX_BITS], strict=True))
    one, two, apart = near_hashes(hashes)
    assert set(zip(one, two, strict=True)) == expected
    assert (np.bitwise_count(hashes[one] ^ hashes[two]) == apart).all()
    assert (np.diff(apart.astype(int)) >= 0).all()
    assert len(one) == len(expected) > 100


def test_of_planted_neighbours_each_is_found_up_to_the_last_bit() -> None:
    hashes = random_hashes(20_000, 0)
    rng = np.random.default_rng(1)
    for num_bits in range(MAX_BITS + 1):
        near = slice(10_000 + 100 * num_bits, 10_100 + 100 * num_bits)
        hashes[near] = turn_bits(hashes[100 * num_bits : 100 * num_bits + 100], num_bits, rng)
    one, two, _ = near_hashes(hashes)
    assert set(zip(range(1000), range(10_000, 11_000), strict=True)) <= set(
        zip(one.tolist(), two.tolist(), strict=True)
    )


def test_a_heap_of_nearly_equal_hashes_hangs_together_without_all_its_pairs() -> None:
    hashes = random_hashes(20_000, 2)
    rng = np.random.default_rng(3)
    hashes[:2000] = hashes[0]
    hashes[2000:4000] = turn_bits(np.repeat(hashes[:1], 2000), 2, rng)
    one, two, _ = near_hashes(hashes)
    assert len(one) < 1_000_000, "8 million pairs are in the heap"
    links = [Link(int(a), int(b), 0.0) for a, b in zip(one, two, strict=True)]
    assert len(set(components(len(hashes), links)[:4000])) == 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_hashes_are_no_special_case(count: int) -> None:
    one, two, apart = near_hashes(np.zeros(count, dtype=np.uint64))
    assert len(one) == len(two) == len(apart) == (count == 2)
