"""Finding near neighbours among many hashes, and putting candidates to the proof.

    cxr bench hygiene --json

Hashes are made up, and in 5 % of them a neighbour is planted that differs in 0 to 9 bits:

- ``even``: every bit is one in half of the hashes;
- ``uneven``: every other bit is one in four of five, as in pictures that are much alike;
- ``heap``: the same, and one hash in five is a picture's that all others of the heap show too,
  to two bits.

Seconds are of the wall clock; recall is of planted pairs outside the heap.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.environment import environment_record
from cxr_model.hygiene.candidates import MAX_BITS, near_hashes
from cxr_model.hygiene.near_duplicates import thumbnail_distances

COUNTS = (10_000, 100_000)
KINDS = ("even", "uneven", "heap")
_PAIRS = 5_000

Hashes = NDArray[np.uint64]


def measure_hygiene() -> dict[str, Any]:
    """Rows of ``what``, ``count``, ``candidates``, ``seconds`` and ``recall``."""
    rows = [_match(kind, count) for kind in KINDS for count in COUNTS]
    rows.append(_prove())
    largest = {row["what"]: row["seconds"] for row in rows if row["count"] == COUNTS[-1]}
    smallest = {row["what"]: row["seconds"] for row in rows if row["count"] == COUNTS[0]}
    factor = COUNTS[-1] / COUNTS[0]
    ratios = {
        f"{what}, seconds for {factor:g} times the hashes": round(
            largest[what] / max(smallest[what], 1e-3), 1
        )
        for what in largest
    }
    return {"rows": rows, "ratios": ratios, "environment": environment_record("CPU")}


def _match(kind: str, count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    hashes = _draw(kind, count, rng)
    num_planted = count // 20
    originals = np.arange(num_planted)
    copies = originals + num_planted
    hashes[copies] = _turn_bits(hashes[originals], rng.integers(0, MAX_BITS + 1, num_planted), rng)
    started = time.perf_counter()
    first, second, _ = near_hashes(hashes)
    seconds = time.perf_counter() - started
    found = np.isin(originals * count + copies, first * count + second)
    return {
        "what": f"match, {kind}",
        "count": count,
        "candidates": len(first),
        "seconds": round(seconds, 2),
        "recall": round(float(found.mean()), 4),
    }


def _draw(kind: str, count: int, rng: np.random.Generator) -> Hashes:
    share = np.full(64, 0.5)
    if kind != "even":
        share[1::2] = 0.8
    weights = np.uint64(1) << np.arange(64, dtype=np.uint64)
    hashes: Hashes = np.where(rng.random((count, 64)) < share, weights, np.uint64(0)).sum(
        axis=1, dtype=np.uint64
    )
    if kind == "heap":
        heap = slice(count - count // 5, count)
        hashes[heap] = _turn_bits(
            np.repeat(hashes[-1:], count // 5), rng.integers(0, 3, count // 5), rng
        )
    return hashes


def _turn_bits(hashes: Hashes, num_bits: NDArray[np.int64], rng: np.random.Generator) -> Hashes:
    places = rng.permuted(np.tile(np.arange(64, dtype=np.uint64), (len(hashes), 1)), axis=1)
    is_turned = np.arange(64) < num_bits[:, None]
    turned = np.where(is_turned, np.uint64(1) << places, np.uint64(0))
    result: Hashes = hashes ^ np.bitwise_or.reduce(turned, axis=1)
    return result


def _prove() -> dict[str, Any]:
    """Thumbnails of pairs that are alike, so that none is left out before the fit."""
    rng = np.random.default_rng(0)
    film = rng.normal(size=(32, 32)).cumsum(axis=0).cumsum(axis=1)
    grey = 30 + 180 * (film - film.min()) / np.ptp(film)
    thumbnails = (grey + rng.normal(0, 3, (_PAIRS, 32, 32))).clip(0, 255).astype(np.uint8)
    places = np.arange(_PAIRS)
    started = time.perf_counter()
    distances = thumbnail_distances(thumbnails, places, np.roll(places, 1))
    return {
        "what": "distance of two thumbnails",
        "count": _PAIRS,
        "candidates": _PAIRS,
        "seconds": round(time.perf_counter() - started, 2),
        "recall": round(float((distances < 1).mean()), 4),
    }
