"""``cxr bench``: prepare films, measure, print or plot."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cache_speed import measure_cache
from benchmarks.explain_speed import measure_explanations
from benchmarks.prepare import Prepared, prepare
from benchmarks.train_speed import measure_training
from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.films import films_to_tensor
from cxr_model.network import build_network, network_arguments


def run_benchmark(what: str, config: RunConfig, *, rounds: int, steps: int) -> dict[str, Any]:
    """One of train, cache, explain."""
    kinds: dict[str, Callable[[Prepared], dict[str, Any]]] = {
        "train": lambda films: measure_training(films, config, rounds=rounds, steps=steps),
        "cache": lambda films: measure_cache(films, config.data.size_px, rounds=rounds),
        "explain": lambda films: _explain(films, config, rounds),
    }
    with tempfile.TemporaryDirectory() as work:
        return {"benchmark": what, **kinds[what](prepare(config, Path(work)))}


def _explain(films: Prepared, config: RunConfig, rounds: int) -> dict[str, Any]:
    device = resolve_device(config.training.device)
    arguments = network_arguments(config.network, in_channels=1, num_classes=3)
    network = build_network(arguments, torch.Generator().manual_seed(0)).eval().to(device)
    pixels = films_to_tensor(FilmCache.open(films.cache_folder).films[:8]).to(device)
    x_NCHW = (pixels.float() / 255 - 0.5) / 0.25
    return measure_explanations(network, x_NCHW, config.explain, rounds=rounds)


def print_benchmark(found: dict[str, Any], console: Console, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("what", "films/s")
    for name, rate in found["films_per_s"].items():
        table.add_row(name, f"{rate:.1f}")
    console.print(table)
    for name, ratio in found["ratios"].items():
        console.print(f"{name:<28} {ratio:.2f}")
    console.print(found["environment"]["device"])
