"""The steps of a run on the files of its folder; Prefect tasks wrap them one to one.

Each reads what the steps before it wrote, so a step can be run again by itself, on a
machine without Prefect too.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_model.cache import FilmCache
from cxr_model.checkpoint import ModelCard, load_model, save_model
from cxr_model.config import RunConfig
from cxr_model.device import device_name, resolve_device, resolve_precision
from cxr_model.films import FilmSet, film_set, films_to_tensor, predict_logits
from cxr_model.labels import order_classes
from cxr_model.metrics import evaluate_predictions
from cxr_model.network import build_network, describe_layers, network_arguments, num_parameters
from cxr_model.run_folder import RunFolder, write_table
from cxr_model.splits import read_splits
from cxr_model.trainer import EpochRecord, Trainer


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What training says of itself in ``metrics.json``."""

    epochs: int
    best_epoch: int
    best_validation_balanced_accuracy: float
    films_per_second: float
    """Training films a second, the median over epochs."""
    device: str
    precision: str
    network: str
    num_parameters: int


def train(
    run: RunFolder,
    run_id: str,
    config: RunConfig,
    cache: FilmCache,
    on_epoch: Callable[[EpochRecord], None],
) -> TrainSummary:
    """Train on the training split; writes ``history.csv`` after each epoch, then the model."""
    splits = read_splits(run.splits)
    classes = order_classes(splits["label"], config.labels)
    device = resolve_device(config.training.device)
    precision = resolve_precision(config.training.precision, device)
    films = {
        split: load_split(splits, split, classes, cache, device)
        for split in ("train", "validation")
    }
    in_channels = 3 if config.data.color == "rgb" else 1
    arguments = network_arguments(config.network, in_channels=in_channels, num_classes=len(classes))
    network = build_network(arguments, torch.Generator().manual_seed(config.training.seed))
    layers = describe_layers(network, in_channels=in_channels, size_px=config.data.size_px)
    trainer = Trainer(
        network,
        films["train"],
        films["validation"],
        len(classes),
        config.training,
        config.augment,
        precision,
    )
    history: list[EpochRecord] = []
    for record in trainer.epochs():
        history.append(record)
        write_table(run.history, pd.DataFrame([asdict(row) for row in history]))
        on_epoch(record)
    card = ModelCard(
        run_id=run_id,
        network=arguments,
        classes=classes,
        size_px=config.data.size_px,
        color=config.data.color,
        mean=trainer.normalisation.mean,
        std=trainer.normalisation.std,
        num_parameters=num_parameters(network),
        layers=layers,
    )
    save_model(run, trainer.best_state, card)
    assert trainer.best is not None  # at least one epoch has run
    return TrainSummary(
        epochs=config.training.epochs,
        best_epoch=trainer.best.epoch,
        best_validation_balanced_accuracy=trainer.best.validation_balanced_accuracy,
        films_per_second=float(np.median([row.films_per_second for row in history])),
        device=device_name(device),
        precision=str(precision).removeprefix("torch."),
        network=config.network.name,
        num_parameters=card.num_parameters,
    )


def load_split(
    splits: pd.DataFrame, split: str, classes: list[str], cache: FilmCache, device: torch.device
) -> FilmSet:
    """The films of one split, in the table's order, on ``device``."""
    films = splits[splits["split"] == split]
    targets = np.array([classes.index(name) for name in films["label"]], dtype=np.int64)
    rows = cache.rows(films["sha256"].tolist())
    return film_set(cache.films[rows], targets, device)


def evaluate(run: RunFolder, config: RunConfig, cache: FilmCache) -> dict[str, Any]:
    """Write ``predictions.csv`` for validation and holdout; return the holdout's figures."""
    device = resolve_device(config.training.device)
    network, card = load_model(run, device)
    splits = read_splits(run.splits)
    films = splits[splits["split"] != "train"].reset_index(drop=True)
    pixels = films_to_tensor(cache.films[cache.rows(films["sha256"].tolist())]).to(device)
    # In float32 whatever training used: 'cxr predict' answers with the same probabilities.
    logits = predict_logits(network, pixels, card.normalisation)
    probabilities = logits.double().softmax(dim=1).cpu().numpy()
    predictions = films[["path", "sha256", "split", "label"]].assign(
        predicted=np.array(card.classes)[probabilities.argmax(axis=1)],
        **{f"probability_{name}": probabilities[:, i] for i, name in enumerate(card.classes)},
    )
    write_table(run.predictions, predictions)
    holdout = (films["split"] == "holdout").to_numpy()
    return evaluate_predictions(
        films["label"].to_numpy(dtype=str)[holdout],
        probabilities[holdout],
        films["group"].to_numpy(dtype=str)[holdout],
        card.classes,
        draws=config.evaluate.bootstrap_draws,
        seed=config.evaluate.seed,
    )


def read_predictions(run: RunFolder) -> pd.DataFrame:
    return pd.read_csv(
        run.predictions,
        dtype=dict.fromkeys(("path", "sha256", "split", "label", "predicted"), str),
        keep_default_na=False,
    )
