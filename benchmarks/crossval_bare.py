"""A cross-validation on a machine with PyTorch and no Prefect: the same folds, the same files.

    python -m benchmarks.crossval_bare FOLDER OUT --network resnet18 --epochs 60 --processes 4

writes OUT as ``cxr crossval`` writes ``.cxr/runs/RUN`` (`benchmarks.crossval_table` reads
both). Called again it goes on where it was stopped: with ``--prepare`` after the films are
decoded, so that OUT can be taken to a machine that has no films. Several processes share one
GPU, which a small network alone leaves idle.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import torch

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import NETWORKS, RunConfig
from cxr_model.config_json import read_config
from cxr_model.crossval import run_fold
from cxr_model.errors import ConfigError, CxrError
from cxr_model.folds import PROTOCOLS, CrossvalConfig, Fold, plan_folds
from cxr_model.index import build_index, read_index, write_index
from cxr_model.presets import PRESETS
from cxr_model.reports.crossval_report import write_crossval
from cxr_model.run_folder import RunFolder, write_json


def prepare_films(source: Path, out: Path, config: RunConfig) -> Path:
    """Index and decode the films of ``source`` that ``out`` does not hold; returns the cache.

    Raises ``ConfigError`` where ``out`` is of other settings.
    """
    run = RunFolder(out)
    if run.config.exists() and read_config(run.config) != config:
        raise ConfigError(f"{out}: is of other settings; use another folder")
    write_json(run.config, asdict(config))
    if not run.index.exists():
        write_index(build_index(source, config.data, config.labels), run.index)
    index = read_index(run.index)
    size_px, color = config.data.size_px, config.data.color
    return build_cache(source, index, out / ".cache", size_px=size_px, color=color).folder


def crossvalidate(
    out: Path, cache: Path, config: RunConfig, crossval: CrossvalConfig, *, num_processes: int
) -> None:
    """Train every fold of what `prepare_films` left, write tables and page."""
    run = RunFolder(out)
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(num_processes, mp_context=spawn) as pool:
        futures = [
            pool.submit(_train_fold, run, fold, config, crossval, cache, num_processes)
            for fold in plan_folds(crossval)
        ]
        for future in futures:
            future.result()
    write_crossval(run, out.name, config, crossval, source=Path(config.data.source).name)


def _train_fold(
    run: RunFolder,
    fold: Fold,
    config: RunConfig,
    crossval: CrossvalConfig,
    cache_folder: Path,
    num_processes: int,
) -> None:
    torch.set_num_threads(max(1, multiprocessing.cpu_count() // num_processes))
    run_fold(run, fold, config, crossval, FilmCache.open(cache_folder), lambda _: None)
    print(f"fold {fold.name} done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.crossval_bare")
    parser.add_argument("source", type=Path, help="folder of films")
    parser.add_argument("out", type=Path, help="folder of the cross-validation")
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--network", choices=NETWORKS, default="cxresnet")
    parser.add_argument("--protocol", choices=PROTOCOLS, action="append")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--prepare", action="store_true", help="stop before the training")
    parser.add_argument("--processes", type=int, default=1, help="folds at a time")
    arguments = parser.parse_args()
    config = PRESETS[arguments.preset]()
    epochs = arguments.epochs or config.training.epochs
    config = replace(
        config,
        data=replace(config.data, source=str(arguments.source)),
        network=replace(config.network, name=arguments.network),
        training=replace(config.training, epochs=epochs),
    )
    plan = CrossvalConfig(protocols=tuple(arguments.protocol or PROTOCOLS))
    source, out = arguments.source, arguments.out
    try:
        cache = prepare_films(source, out, config)
        if not arguments.prepare:
            crossvalidate(out, cache, config, plan, num_processes=arguments.processes)
    except CxrError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
