"""The steps of a run on the files of its folder; Prefect tasks wrap them one to one.

Each reads what the steps before it wrote, so a step can be run again by itself, on a
machine without Prefect too.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_model.batches import TrainingFilms
from cxr_model.cache import FilmCache
from cxr_model.checkpoints import Checkpoints
from cxr_model.config import WHERE_IT_TRAINS, RunConfig
from cxr_model.device import (
    deterministic_algorithms,
    device_name,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
)
from cxr_model.errors import ConfigError
from cxr_model.films import FilmSet, film_set, predict_logits
from cxr_model.labels import order_classes
from cxr_model.metrics import evaluate_predictions
from cxr_model.model_files import ModelCard, load_model, save_model
from cxr_model.network import build_network, describe_layers, network_arguments, num_parameters
from cxr_model.run_folder import RunFolder, sha256_file, write_table
from cxr_model.saving import Saver
from cxr_model.splits import read_splits
from cxr_model.trainer import EpochRecord, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What training says of itself in ``metrics.json``."""

    epochs: int
    best_epoch: int
    best_validation_balanced_accuracy: float | None
    """None where no film validates."""
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
    on_checkpoint: Callable[[Path], None] = lambda _: None,
) -> TrainSummary:
    """Train on the training split; writes ``history.csv`` after each epoch, then the model.

    Goes on from the newest checkpoint below ``run``, where there is one. ``on_epoch`` hears
    of each epoch trained now, ``on_checkpoint`` of each file of a checkpoint, the one of a
    signal that ends the training among them (what its handler raises must be no ``Exception``).
    """
    splits = read_splits(run.splits)
    classes = order_classes(splits["label"], config.labels)
    device = resolve_device(config.training.device)
    precision = resolve_precision(config.training.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    in_channels = 3 if config.data.color == "rgb" else 1
    arguments = network_arguments(config.network, in_channels=in_channels, num_classes=len(classes))
    network = build_network(arguments, torch.Generator().manual_seed(config.training.seed))
    layers = describe_layers(network, in_channels=in_channels, size_px=config.data.size_px)
    films = TrainingFilms(
        train=load_split(splits, "train", classes, cache, device),
        validation=(
            load_split(splits, "validation", classes, cache, device)
            if (splits["split"] == "validation").any()
            else None
        ),
        num_classes=len(classes),
    )
    with deterministic_algorithms(config.training.deterministic):
        trainer = Trainer(network, films, config.training, config.augment, precision)
        identity = _training_identity(run, config, classes, precision)
        checkpoints = Checkpoints(run.checkpoints, identity)
        _train_on(trainer, checkpoints, run, on_epoch, on_checkpoint)
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
    if trainer.processes.is_first:
        save_model(run, trainer.best_state, card)
    assert trainer.best is not None  # at least one epoch has run
    return TrainSummary(
        epochs=config.training.epochs,
        best_epoch=trainer.best.epoch,
        best_validation_balanced_accuracy=(
            trainer.best.validation_balanced_accuracy if films.validation else None
        ),
        films_per_second=float(np.median([row.films_per_second for row in trainer.history])),
        device=device_name(device),
        precision=str(precision).removeprefix("torch."),
        network=config.network.name,
        num_parameters=card.num_parameters,
    )


def _train_on(
    trainer: Trainer,
    checkpoints: Checkpoints,
    run: RunFolder,
    on_epoch: Callable[[EpochRecord], None],
    on_checkpoint: Callable[[Path], None],
) -> None:
    """From the newest checkpoint, or from the start, to the last epoch."""
    state = checkpoints.latest()
    if state is not None:
        trainer.restore(state)
        if trainer.processes.is_first:
            _write_history(run, trainer)
        log.info("resuming after epoch %d, step %d", trainer.epoch, trainer.step)
    saver = Saver(trainer, checkpoints, on_checkpoint)
    with saver.until_told_to_end():
        for record in trainer.epochs(saver.after_step):
            if trainer.processes.is_first:
                saver.after_epoch()
                _write_history(run, trainer)
                on_epoch(record)


def _write_history(run: RunFolder, trainer: Trainer) -> None:
    write_table(run.history, pd.DataFrame([asdict(row) for row in trainer.history]))


def settings_of_the_weights(config: RunConfig) -> dict[str, dict[str, Any]]:
    """By group, the settings that decide the weights of a training on given films.

    What may differ when it goes on (`WHERE_IT_TRAINS`) is left out.
    """
    training = asdict(config.training)
    for name in WHERE_IT_TRAINS:
        del training[name]
    return {
        "data": {"size_px": config.data.size_px, "color": config.data.color},
        "network": asdict(config.network),
        "augment": asdict(config.augment),
        "training": training,
    }


def settings_of_the_training(config: RunConfig) -> dict[str, dict[str, Any]]:
    """`settings_of_the_weights`, and those that decide which films they are trained on."""
    films = ("data", "phantom", "labels", "hygiene", "split")
    settings = asdict(config)
    return settings_of_the_weights(config) | {group: settings[group] for group in films}


def require_same_settings(
    run_id: str, begun: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ``ConfigError`` where a setting of a group is not as the run was ``begun`` with.

    To be asked before the run's settings are written anew, which lead back to its checkpoints.
    """
    for group, settings in now.items():
        for name, value in settings.items():
            if value != begun[group][name]:
                raise ConfigError(
                    f"{group}.{name}={value}: run {run_id} was begun with {begun[group][name]}; "
                    "resume with that, or start a new run"
                )


def _training_identity(
    run: RunFolder, config: RunConfig, classes: list[str], precision: torch.dtype
) -> dict[str, str]:
    """Digests of all that decides the weights.

    Beside films and settings the precision, which ``training.precision=auto`` has by the device.
    """
    settings = json.dumps(settings_of_the_weights(config), sort_keys=True)
    films = json.dumps([classes, sha256_file(run.splits)])
    return {
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
        "precision (by the kind of device)": str(precision),
        "films": hashlib.sha256(films.encode()).hexdigest(),
    }


def load_split(
    splits: pd.DataFrame, split: str, classes: list[str], cache: FilmCache, device: torch.device
) -> FilmSet:
    """The films of one split, in the table's order, for ``device``."""
    return _load(splits[splits["split"] == split], classes, cache, device)


def _load(
    films: pd.DataFrame, classes: list[str], cache: FilmCache, device: torch.device
) -> FilmSet:
    targets = np.array([classes.index(name) for name in films["label"]], dtype=np.int64)
    return film_set(cache, films["sha256"].tolist(), targets, device)


def evaluate(run: RunFolder, config: RunConfig, cache: FilmCache) -> dict[str, Any]:
    """Write ``predictions.csv`` for validation and holdout; return the holdout's figures."""
    splits = read_splits(run.splits)
    predictions = predict_films(run, config, cache, splits[splits["split"] != "train"])
    write_table(run.predictions, predictions.drop(columns="group"))
    classes = ModelCard.read(run.model_card).classes
    holdout = predictions[predictions["split"] == "holdout"]
    return evaluate_predictions(
        holdout["label"].to_numpy(dtype=str),
        holdout[[f"probability_{name}" for name in classes]].to_numpy(np.float64),
        holdout["group"].to_numpy(dtype=str),
        classes,
        draws=config.evaluate.bootstrap_draws,
        seed=config.evaluate.seed,
    )


def predict_films(
    run: RunFolder, config: RunConfig, cache: FilmCache, films: pd.DataFrame
) -> pd.DataFrame:
    """Rows of a splits table with ``predicted`` and the probabilities under the run's network."""
    device = resolve_device(config.training.device)
    network, card = load_model(run, device)
    batches = _load(films, card.classes, cache, device).batches()
    # In float32 whatever training used: 'cxr predict' answers with the same probabilities.
    logits = predict_logits(network, batches, card.normalisation)
    probabilities = logits.double().softmax(dim=1).cpu().numpy()
    predictions = films[["path", "sha256", "split", "label", "group"]].reset_index(drop=True)
    return predictions.assign(
        predicted=np.array(card.classes)[probabilities.argmax(axis=1)],
        **{f"probability_{name}": probabilities[:, i] for i, name in enumerate(card.classes)},
    )


def read_predictions(path: Path) -> pd.DataFrame:
    """A table of predictions; names stay text, whatever they look like."""
    names = ("path", "sha256", "split", "label", "predicted", "group")
    return pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False)
