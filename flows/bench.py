"""``cxr bench``: prepare films, measure, print."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cache_speed import measure_cache
from benchmarks.epochs_speed import measure_epochs
from benchmarks.explain_speed import measure_explanations
from benchmarks.growth import measure_growth
from benchmarks.predict_speed import measure_predictions
from benchmarks.prepare import Prepared, prepare
from benchmarks.time_to_accuracy import measure_time_to_accuracy
from benchmarks.train_speed import measure_training
from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.films import films_to_tensor
from cxr_model.network import build_network, network_arguments
from flows.serve_bench import bench_serving

_TIMES = (1, 2, 4, 8)


def run_benchmark(
    what: str, config: RunConfig, *, rounds: int, steps: int, times: Sequence[int]
) -> dict[str, Any]:
    """Any of `flows.commands.bench.BENCHMARKS` but ``start``, which wants the bare command,
    and ``scale`` and ``hygiene``, which take no films."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        kinds: dict[str, Callable[[Prepared], dict[str, Any]]] = {
            "train": lambda films: measure_training(films, config, rounds=rounds, steps=steps),
            "epochs": lambda films: measure_epochs(films, config, work, (times or (1,))[0]),
            "accuracy": lambda films: measure_time_to_accuracy(films, config, work / "ours"),
            "cache": lambda films: measure_cache(films, config.data, rounds=rounds),
            "growth": lambda films: measure_growth(films, config, times or _TIMES),
            "explain": lambda films: _explain(films, config, rounds),
            "predict": lambda films: measure_predictions(
                films, config, work, times or _TIMES, rounds=rounds
            ),
            "serve": lambda films: bench_serving(films, config, work, rounds),
        }
        return {"benchmark": what, **kinds[what](prepare(config, work))}


def _explain(films: Prepared, config: RunConfig, rounds: int) -> dict[str, Any]:
    device = resolve_device(config.training.device)
    decoded = np.array(FilmCache.open(films.cache_folder).films[:8])  # torch takes no mapped ones
    pixels = films_to_tensor(decoded).to(device)
    arguments = network_arguments(
        config.network, in_channels=pixels.shape[1], num_classes=len(films.classes)
    )
    network = build_network(arguments, torch.Generator().manual_seed(0)).eval().to(device)
    x_NCHW = (pixels.float() / 255 - 0.5) / 0.25
    return measure_explanations(network, x_NCHW, config.explain, rounds=rounds)


def print_benchmark(found: dict[str, Any], console: Console, *, as_json: bool) -> None:
    """JSON whole; for people the rates or rows or seconds, the ratios and the device."""
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if "films_per_s" in found:
        table = Table("what", "films/s")
        for name, rate in found["films_per_s"].items():
            table.add_row(name, f"{rate:.1f}")
        console.print(table)
    if "rows" in found:
        table = Table(*found["rows"][0])
        for row in found["rows"]:
            table.add_row(*(v if isinstance(v, str) else f"{v:g}" for v in row.values()))
        console.print(table)
    for name, seconds in _flat(found.get("seconds", {})):
        console.print(f"{name:<46} {seconds:.1f} s")
    for name, ratio in found["ratios"].items():
        console.print(f"{name:<46} {ratio:.3f}")
    if "stack" in found:
        console.print(f"stack: {found['stack']}")
    console.print(found["environment"]["device"])


def _flat(seconds: Any, name: str = "") -> list[tuple[str, float]]:
    if not isinstance(seconds, dict):
        return [(name, seconds)]
    return [
        pair
        for key, value in seconds.items()
        for pair in _flat(value, f"{name}, {key}" if name else key)
    ]
