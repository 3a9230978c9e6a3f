"""How often the shortcut audit is right: phantoms with a planted corner marker, and clean ones.

    python -m benchmarks.shortcut_alarms

draws a clean data set and a marked one a seed, trains a small network on each and audits them,
without Prefect. Tells each on standard error, and prints one JSON object.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import ExplainConfig, NetworkConfig, RunConfig, TrainingConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.device import device_name
from cxr_model.environment import environment_record
from cxr_model.index import build_index, write_index
from cxr_model.intervals import proportion_interval
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


def measure_alarms(
    seeds: range, marker_class: str, *, num_films: int, size_px: int, epochs: int
) -> dict[str, Any]:
    """Alarms on clean films and on those of whose classes one bears a marker, a row an audit."""
    rows = []
    for seed in seeds:
        for marker in ("", marker_class):
            config = phantom_settings(num_films, seed, marker, size_px=size_px, epochs=epochs)
            with tempfile.TemporaryDirectory() as folder:
                record = audit_phantoms(config, Path(folder))
            rows.append(
                {
                    "seed": seed,
                    "marker": marker or None,
                    "alarms": record["alarms"],
                    "least_p": min(row["p_value"] for row in record["told_apart"]),
                    "model": record["model"],
                    "corner_exchange": record["corner_exchange"]["excess"],
                    "probes": {
                        probe["name"]: probe["balanced_accuracy"] for probe in record["probes"]
                    },
                }
            )
            told = "; ".join(record["alarms"]) or "no alarm"
            print(f"seed {seed}, {marker or 'clean'}: {told}", file=sys.stderr, flush=True)
    raised = {
        kind: [bool(row["alarms"]) for row in rows if row["marker"] == marker]
        for kind, marker in (("clean", None), ("marked", marker_class))
    }
    return {
        "benchmark": "shortcut-alarms",
        "alarms": {kind: proportion_interval(sum(of), len(of)) for kind, of in raised.items()},
        "num_films": num_films,
        "size_px": size_px,
        "epochs": epochs,
        "rows": rows,
        "environment": environment_record(device_name(torch.device("cpu"))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--first-seed", type=int, default=20, help="the rules were set on those below"
    )
    parser.add_argument("--films", type=int, default=150)
    parser.add_argument("--size", type=int, default=64, help="side of the films in pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--marker", default="covid", help="class that carries the marker")
    arguments = parser.parse_args()
    found = measure_alarms(
        range(arguments.first_seed, arguments.first_seed + arguments.seeds),
        arguments.marker,
        num_films=arguments.films,
        size_px=arguments.size,
        epochs=arguments.epochs,
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
