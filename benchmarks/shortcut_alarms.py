"""How often the shortcut audit is right: phantoms with a planted corner marker, and clean ones.

    python -m benchmarks.shortcut_alarms --seeds 10 --films 300

draws a data set a seed, trains a small network on it and audits both, without Prefect. Prints
a row a seed and ends with the number of alarms; ``--marker covid`` plants the marker.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import ExplainConfig, NetworkConfig, RunConfig, TrainingConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.index import build_index, write_index
from cxr_model.intervals import format_estimate
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.run_folder import RunFolder
from cxr_model.shortcuts.audit import audit_shortcuts
from cxr_model.splits import assign_splits, write_splits
from cxr_model.stages import evaluate, train


def phantom_settings(
    num_films: int, seed: int, marker_class: str, *, size_px: int, epochs: int
) -> RunConfig:
    """A run that is small enough for tens of repeats; one seed for films, splits and training."""
    base = RunConfig()
    return replace(
        base,
        data=DataConfig(size_px=size_px),
        phantom=PhantomConfig(num_films=num_films, seed=seed, marker_class=marker_class),
        split=replace(base.split, seed=seed),
        network=NetworkConfig(widths=(8, 16, 32, 64), depths=(1, 1)),
        training=TrainingConfig(
            epochs=epochs, progressive=False, ema_decay=0, learning_rate=5e-3, seed=seed
        ),
        explain=ExplainConfig(occlusion_window_px=16),
    )


def audit_phantoms(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Draw, index, split, train and evaluate below ``folder``; the audit's record."""
    root, run = folder / "films", RunFolder(folder / "run")
    write_phantoms(root, config.phantom)
    index = build_index(root, config.data, config.labels)
    write_index(index, run.index)
    write_splits(assign_splits(index, config.split), run.splits)
    size_px, color = config.data.size_px, config.data.color
    report = build_cache(root, index, folder / "cache", size_px=size_px, color=color)
    cache = FilmCache.open(report.folder)
    train(run, "phantoms", config, cache, lambda _: None)
    evaluate(run, config, cache)
    return audit_shortcuts(run, config, cache, root)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0, help="the rules were set on 0 to 9")
    parser.add_argument("--films", type=int, default=300)
    parser.add_argument("--size", type=int, default=96, help="side of the films in pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--marker", default="", help="class that carries the marker; none: clean")
    arguments = parser.parse_args()
    num_alarms = 0
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        config = phantom_settings(
            arguments.films,
            seed,
            arguments.marker,
            size_px=arguments.size,
            epochs=arguments.epochs,
        )
        with tempfile.TemporaryDirectory() as folder:
            record = audit_phantoms(config, Path(folder))
        num_alarms += record["alarm"]
        figures = {each["name"]: each["balanced_accuracy"] for each in record["probes"]}
        print(
            f"seed {seed}: model {format_estimate(record['model'])}, corners "
            f"{format_estimate(record['corner_exchange']['excess'])}, "
            + ", ".join(f"{name} {found['value']:.2f}" for name, found in figures.items()),
            *record["alarms"],
            sep="\n    ",
            flush=True,
        )
    print(f"{num_alarms} alarms in {arguments.seeds} seeds")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
