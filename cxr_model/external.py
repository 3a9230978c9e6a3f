"""A trained network measured on films of another data set than its own."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.device import device_name, resolve_device
from cxr_model.environment import environment_record
from cxr_model.errors import DataError
from cxr_model.index import data_digest, patient_summary, read_index
from cxr_model.metrics import (
    Estimate,
    bootstrap_weights,
    estimate_from_draws,
    evaluate_predictions,
    proportion_interval,
)
from cxr_model.model_files import ModelCard
from cxr_model.predict import BATCH_SIZE, Predictor
from cxr_model.reliability.judgement import ABSTAINED, OUTLIER
from cxr_model.reports import figures
from cxr_model.reports.page import data_uri, template_environment
from cxr_model.run_folder import RunFolder, atomic_path, write_json, write_table
from cxr_model.splits import group_films

SCHEMA_VERSION = 1


def unseen_films(run: RunFolder, model: RunFolder) -> tuple[pd.DataFrame, int]:
    """The readable films of ``run``'s index that ``model`` has never met, and how many it has.

    A film that stands in the index of the model's own data, byte for byte, is left out,
    whichever split it was in. Raises ``DataError`` where nothing is left or a class is none
    of the model's.
    """
    index = read_index(run.index)
    films = index[index["error"] == ""].assign(group=group_films(index), split="external")
    classes = ModelCard.read(model.model_card).classes
    unknown = sorted(set(films["label"]) - set(classes))
    if unknown:
        raise DataError(
            f"label {unknown[0]!r}: the model knows {', '.join(classes)}; map or drop it with "
            "labels, for example --set labels." + unknown[0] + "=none"
        )
    is_known = films["sha256"].isin(set(read_index(model.index)["sha256"]))
    if is_known.all():
        raise DataError(
            f"all {len(films)} films are of the model's own data; name a data set that it has "
            "not met"
        )
    return films[~is_known], int(is_known.sum())


def evaluate_elsewhere(
    run: RunFolder,
    run_id: str,
    model: RunFolder,
    config: RunConfig,
    cache: FilmCache,
    *,
    source: str,
) -> dict[str, Any]:
    """Predict every unseen film; writes predictions, ``metrics.json`` and a page, returns it.

    Intervals are from a bootstrap over groups (patients, series, copies), those of the shares
    of films answered, abstained from and marked as outliers Wilson's.
    """
    films, num_known = unseen_films(run, model)
    predictor = Predictor.load(model, resolve_device(config.training.device))
    card = predictor.card
    predictions = _judge(predictor, cache, films)
    draws, seed = config.evaluate.bootstrap_draws, config.evaluate.seed
    write_table(run.predictions, predictions.drop(columns="group"))
    index = read_index(run.index)
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": "evaluate",
        "data": {
            "source": source,
            "digest": data_digest(index),
            "num_films": len(index),
            "num_left_out": num_known,
            "patients": patient_summary(index),
        },
        "model": {"run_id": card.run_id, "sha256": predictor.digest},
        "network": {"name": card.network["name"], "num_parameters": card.num_parameters},
        "holdout": evaluate_predictions(
            predictions["label"].to_numpy(dtype=str),
            predictions[[f"probability_{name}" for name in card.classes]].to_numpy(np.float64),
            predictions["group"].to_numpy(dtype=str),
            card.classes,
            draws=draws,
            seed=seed,
        ),
        "decisions": _decision_figures(predictions, draws=draws, seed=seed),
        "settings": asdict(config),
        "environment": environment_record(device_name(resolve_device(config.training.device))),
    }
    write_json(run.metrics, metrics)
    _write_page(run, metrics)
    return metrics


def _judge(predictor: Predictor, cache: FilmCache, films: pd.DataFrame) -> pd.DataFrame:
    """The films' rows with the columns of `cxr_model.reliability.judgement`."""
    tables = []
    for start in range(0, len(films), BATCH_SIZE):
        batch = films[["path", "sha256", "split", "label", "group"]][start : start + BATCH_SIZE]
        judged = predictor.judge(cache.films[cache.rows(batch["sha256"].tolist())])
        tables.append(batch.assign(**judged.columns(np.ones(len(batch), dtype=bool))))
    return pd.concat(tables, ignore_index=True)


def _decision_figures(predictions: pd.DataFrame, *, draws: int, seed: int) -> dict[str, Estimate]:
    """How often there is an answer, and how often that is right."""
    decision = predictions["decision"]
    answered = predictions[decision == predictions["predicted"]]
    counts = {
        "answered": len(answered),
        ABSTAINED: int((decision == ABSTAINED).sum()),
        OUTLIER: int((decision == OUTLIER).sum()),
    }
    shares = {name: proportion_interval(count, len(decision)) for name, count in counts.items()}
    return shares | {"accuracy_of_answers": _accuracy(answered, draws=draws, seed=seed)}


def _accuracy(answered: pd.DataFrame, *, draws: int, seed: int) -> Estimate:
    if answered.empty:
        return proportion_interval(0, 0)
    is_right_N = (answered["decision"] == answered["label"]).to_numpy(np.float64)
    groups_N = answered["group"].to_numpy(dtype=str)
    drawn = [
        is_right_N @ weights_NB / weights_NB.sum(axis=0)
        for weights_NB in bootstrap_weights(groups_N, draws, np.random.default_rng(seed))
    ]
    return estimate_from_draws(is_right_N.mean(), np.concatenate(drawn), len(answered))


def _write_page(run: RunFolder, metrics: dict[str, Any]) -> None:
    holdout = metrics["holdout"]
    drawing = figures.confusion_figure(holdout["confusion_matrix"], holdout["classes"])
    picture = figures.svg_bytes(drawing)
    page = (
        template_environment()
        .get_template("external.html.j2")
        .render(metrics=metrics, confusion=data_uri("image/svg+xml", picture))
    )
    with atomic_path(run.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
