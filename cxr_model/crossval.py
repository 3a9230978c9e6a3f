"""Cross-validation: one fold on files, and what all folds together say."""

import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from sklearn.metrics import f1_score, recall_score

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.config_json import read_config
from cxr_model.errors import ConfigError
from cxr_model.folds import CrossvalConfig, Fold, fold_splits, plan_folds
from cxr_model.index import read_index
from cxr_model.intervals import Slack, wilson_slack
from cxr_model.launch import end_with_parent
from cxr_model.paired import compare_predictions
from cxr_model.run_folder import RunFolder, read_json, write_json, write_table
from cxr_model.splits import read_splits, write_splits
from cxr_model.stages import (
    predict_films,
    require_same_settings,
    settings_of_the_training,
    train,
)
from cxr_model.trainer import EpochRecord


@contextmanager
def _leaves_the_pool_at_ctrl_c() -> Iterator[None]:
    """End an interrupted process of a pool, which would hand it the next fold."""
    try:
        yield
    except KeyboardInterrupt:  # the fold's checkpoint is written
        if multiprocessing.parent_process():
            os._exit(130)
        raise


@_leaves_the_pool_at_ctrl_c()
def run_fold(
    run: RunFolder,
    fold: Fold,
    config: RunConfig,
    crossval: CrossvalConfig,
    cache: FilmCache,
    on_epoch: Callable[[EpochRecord], None],
) -> None:
    """Train on the fold's films, then predict its holdout, once.

    ``run`` is the cross-validation's folder, with its index; all that the fold writes lies
    below ``folds/``. A fold that is done is not done again, one that was interrupted goes on
    from its checkpoint. Raises ``ConfigError`` for one that is done on other films.
    In a pool, its process ends with the one that made the pool, and at Ctrl-C.
    """
    end_with_parent()
    folder = run.fold(fold.name)
    splits = fold_splits(read_index(run.index), fold, crossval)
    if folder.metrics.exists():
        _require_written(splits, folder)
        return
    write_splits(splits, folder.splits)
    seed = config.training.seed + fold.repeat - 1
    config = replace(config, training=replace(config.training, seed=seed))
    summary = train(folder, fold.name, config, cache, on_epoch)
    predictions = predict_films(folder, config, cache, splits[splits["split"] == "holdout"])
    write_table(folder.predictions, predictions)
    write_json(
        folder.metrics,
        asdict(fold)
        | {
            "training_seconds": float(pd.read_csv(folder.history)["seconds"].sum()),
            "films_per_second": summary.films_per_second,
            "num_parameters": summary.num_parameters,
            "device": summary.device,
            "precision": summary.precision,
            "num_train": int((splits["split"] == "train").sum()),
            "num_holdout": len(predictions),
        },
    )


def require_begun(run: RunFolder) -> None:
    """Raise ``ConfigError`` where there is no cross-validation to go on with."""
    if not run.crossval_config.exists():
        raise ConfigError(
            f"run {run.root.name}: is no cross-validation begun on this machine; begin one with "
            "'cxr crossval'"
        )


def check_begun_settings(run: RunFolder, config: RunConfig, crossval: CrossvalConfig) -> None:
    """Raise ``ConfigError`` where folds were begun on other films, dealt out otherwise, or with
    settings that give other weights.

    To be asked before the run's settings are written anew.
    """
    if not all(path.exists() for path in (run.folds, run.config, run.crossval_config)):
        return
    plan = json.loads(json.dumps(asdict(crossval)))  # tuples are lists in the file
    require_same_settings(
        run.root.name,
        settings_of_the_training(read_config(run.config))
        | {"crossval": read_json(run.crossval_config)},
        settings_of_the_training(config) | {"crossval": plan},
    )


def check_begun_folds(run: RunFolder, crossval: CrossvalConfig) -> None:
    """Raise ``ConfigError`` where a fold was begun on other films than those of the run's index."""
    index = read_index(run.index)
    for fold in plan_folds(crossval):
        folder = run.fold(fold.name)
        if folder.splits.exists():
            _require_written(fold_splits(index, fold, crossval), folder)


def drop_folds_of_other_films(run: RunFolder, crossval: CrossvalConfig) -> bool:
    """Remove all folds where one was begun on other films than those of the run's index."""
    try:
        check_begun_folds(run, crossval)
    except ConfigError:
        shutil.rmtree(run.folds)
        return True
    return False


def _require_written(splits: pd.DataFrame, folder: RunFolder) -> None:
    if not read_splits(folder.splits).equals(splits.astype(str)):
        raise ConfigError(
            f"{folder.root}: was trained on other films; start a new cross-validation"
        )


def fold_figures(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, macro F1 and each class's sensitivity on one fold's films."""
    truth, predicted = predictions["label"], predictions["predicted"]
    sensitivity = recall_score(truth, predicted, labels=classes, average=None)
    return {
        "accuracy": float((truth == predicted).mean()),
        "balanced_accuracy": float(sensitivity.mean()),
        "macro_f1": float(f1_score(truth, predicted, labels=classes, average="macro")),
        "sensitivity": dict(zip(classes, sensitivity.tolist(), strict=True)),
    }


def summarise_protocol(
    predictions: pd.DataFrame, records: list[dict[str, Any]], classes: Sequence[str]
) -> dict[str, Any]:
    """The row of one protocol: means over folds and repeats with their intervals.

    ``predictions`` are those of all folds (columns ``repeat`` and ``fold`` tell them apart),
    ``records`` the folds' ``metrics.json``.
    """
    by_fold = [fold_figures(films, classes) for _, films in predictions.groupby(["repeat", "fold"])]
    ratio = float(np.mean([record["num_holdout"] / record["num_train"] for record in records]))
    overall = ("accuracy", "balanced_accuracy", "macro_f1")
    values = {name: [figures[name] for figures in by_fold] for name in overall}
    of_class = {name: [figures["sensitivity"][name] for figures in by_fold] for name in classes}
    groups = predictions.groupby("label")["group"].nunique()
    # F1 is held to be no surer than the sensitivity in it.
    of_classes = _wilson(list(of_class.values()), [groups[name] for name in classes])
    least = dict.fromkeys(overall, of_classes)
    least["accuracy"] = _wilson([values["accuracy"]], [predictions["group"].nunique()])
    row: dict[str, Any] = {
        name: mean_over_folds(values[name], ratio, least[name]) for name in overall
    }
    row["sensitivity"] = {
        name: mean_over_folds(of_folds, ratio, _wilson([of_folds], [groups[name]]))
        for name, of_folds in of_class.items()
    }
    return row | {
        "num_parameters": records[0]["num_parameters"],
        "training_seconds": sum(record["training_seconds"] for record in records),
        "films_per_second": float(np.median([record["films_per_second"] for record in records])),
        # Folds that went on on another machine have its device.
        **{
            name: "; ".join(sorted({str(record[name]) for record in records}))
            for name in ("device", "precision")
        },
    }


def _wilson(rates_RF: Sequence[Sequence[float]], num_groups_R: Sequence[int]) -> Slack:
    """How far the mean of rates may lie off by Wilson's intervals, below and above."""
    return wilson_slack(np.mean(rates_RF, axis=1), np.array(num_groups_R))


def mean_over_folds(values: Sequence[float], test_to_train: float, least: Slack) -> dict[str, Any]:
    """Mean with a 95 % interval from the corrected resampled t-test.

    Nadeau & Bengio 2003, doi:10.1023/A:1024068626366: the trainings of several folds share
    films, so the plain variance of their mean is too small; ``test_to_train``, the ratio of
    films tested to films trained on, is added to ``1 / len(values)``. Folds may agree by chance:
    the interval reaches ``least`` below and above the mean at least.
    """
    count = len(values)
    mean = float(np.mean(values))
    scale = math.sqrt(1 / count + test_to_train)
    half = float(stdtrit(count - 1, 0.975) * scale * np.std(values, ddof=1))
    below, above = (max(half, distance) for distance in least)
    return {
        "mean": mean,
        "ci_low": max(0.0, mean - below),
        "ci_high": min(1.0, mean + above),
        "by_fold": list(values),
    }


def leakage_estimate(
    naive: pd.DataFrame, grouped: pd.DataFrame, classes: list[str], *, draws: int, seed: int
) -> dict[str, Any]:
    """Naive minus grouped, on the same films of the first repeat: what the protocol adds.

    ``related`` and ``unrelated`` have the same of the films of which a relative stands in
    another naive fold, and was trained on, and of the others. Of the others a difference is no
    leakage: trainings vary, which no interval here holds.
    """
    first, second = (table[table["repeat"] == 1] for table in (naive, grouped))
    found = compare_predictions(first, second, classes, draws=draws, seed=seed)
    is_related = first.groupby("group")["fold"].transform("nunique") > 1
    for name, films in (("related", first[is_related]), ("unrelated", first[~is_related])):
        if len(films):
            same = second[second["path"].isin(films["path"])]
            part = compare_predictions(films, same, classes, draws=draws, seed=seed)
            found[name] = {"n": part["n"], "accuracy": part["accuracy"]}
    return found
