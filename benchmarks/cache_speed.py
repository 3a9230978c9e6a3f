"""Cache building in films per second, beside bare decoding and the seed's way of loading.

- ``here``: `cxr_model.cache.build_cache` into an empty folder: read, hash, decode, resize,
  write and sync;
- ``limit``: the same files read, decoded at the scale a JPEG offers and resized, on all
  cores, and thrown away;
- ``seed's way``: ImageFolder with PIL transforms: whole decode, RGB, resize, tensor.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.prepare import Prepared
from benchmarks.published import seed_films
from benchmarks.rounds import films_per_second, result
from cxr_model.cache import build_cache
from cxr_model.data_config import DataConfig


def measure_cache(prepared: Prepared, data: DataConfig, *, rounds: int) -> dict[str, Any]:
    """Rates and ratios over the readable films, each round into a new folder."""
    size_px, color = data.size_px, data.color
    mode = "L" if color == "grey" else "RGB"
    root, films = prepared.root, prepared.films.drop_duplicates("sha256")
    paths = [root / path for path in films["path"]]

    def here() -> int:
        with tempfile.TemporaryDirectory() as folder:
            report = build_cache(root, films, Path(folder), size_px=size_px, color=color)
        return report.num_written

    def decode(path: Path) -> None:
        with Image.open(path) as image:
            image.draft(mode, (size_px, size_px))
            image.convert(mode).resize((size_px, size_px), Image.Resampling.BILINEAR)

    def limit() -> int:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return len(list(pool.map(decode, paths)))

    folder = seed_films(prepared, size_px)

    def seeds_way() -> int:
        return sum(1 for _ in map(folder.__getitem__, range(len(folder))))

    rates = films_per_second({"here": here, "limit": limit, "seed's way": seeds_way}, rounds)
    ratios = {
        "of_limit": rates["here"] / rates["limit"],
        "vs_seed": rates["here"] / rates["seed's way"],
    }
    return result(rates, ratios, torch.device("cpu"), size_px=size_px, num_films=len(films))
