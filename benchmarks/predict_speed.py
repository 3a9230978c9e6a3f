"""Scoring in films per second beside its two halves, and its memory for ever more films.

- ``here``: `cxr_model.predict.score` over the files, batches of 64;
- ``decoding``: the same files read, hashed and decoded on all cores, and thrown away;
- ``forward``: the network on as many films that are decoded already, in batches of 64.

On a CPU both halves want the same cores: the limit is one after the other. The rows hold the
peak of what belongs to the process alone (``RssAnon``) while it scores multiples of the films.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.growth import peak_memory
from benchmarks.prepare import Prepared, save_untrained
from benchmarks.rounds import films_per_second, result
from cxr_model.cache import FilmCache, decode_film
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.film_files import FilmFile
from cxr_model.films import predict_logits
from cxr_model.predict import BATCH_SIZE, Predictor, score


def measure_predictions(
    prepared: Prepared, config: RunConfig, work: Path, times: Sequence[int], *, rounds: int
) -> dict[str, Any]:
    """A row for each multiple of the films, then rates and ratios with an untrained network."""
    device = resolve_device(config.training.device)
    predictor = Predictor.load(save_untrained(prepared, config, work / "model"), device)
    paths = [prepared.root / path for path in prepared.films["path"]]
    decoded = np.array(FilmCache.open(prepared.cache_folder).films)
    rows = [_grow(paths, predictor, multiple) for multiple in times]

    def here() -> int:
        return sum(len(batch.table) for batch in score(_films(paths), predictor))

    def decode(path: Path) -> None:
        data = path.read_bytes()
        hashlib.sha256(data)
        decode_film(data, config.data.size_px, config.data.color)

    def decoding() -> int:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return len(list(pool.map(decode, paths)))

    def forward() -> int:
        batches = torch.split(predictor.to_tensor(decoded), BATCH_SIZE)
        return len(predict_logits(predictor.network, batches, predictor.card.normalisation))

    rates = films_per_second({"here": here, "decoding": decoding, "forward": forward}, rounds)
    limit = 1 / (1 / rates["decoding"] + 1 / rates["forward"])
    ratios = {
        "of_limit": rates["here"] / limit,
        "of_forward": rates["here"] / rates["forward"],
        "peak_mb": rows[-1]["peak_mb"] / rows[0]["peak_mb"],
    }
    about = {"rows": rows, "size_px": config.data.size_px, "num_films": len(paths)}
    return result(rates, ratios, device, **about)


def _films(paths: Sequence[Path], multiple: int = 1) -> list[FilmFile]:
    return [
        FilmFile(f"{number}/{path}", str(path), lambda key: Path(key).read_bytes())
        for number in range(multiple)
        for path in paths
    ]


def _grow(paths: Sequence[Path], predictor: Predictor, multiple: int) -> dict[str, float]:
    with peak_memory() as peak:
        started = time.perf_counter()
        for _ in score(_films(paths, multiple), predictor):
            pass
        seconds = time.perf_counter() - started
    num_films = multiple * len(paths)
    return {
        "num_films": num_films,
        "films_per_s": round(num_films / seconds, 2),
        "peak_mb": round(peak[0] / 1024),
    }
