"""A trained network measured on films of another data set than its own."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_model.cache import FilmCache
from cxr_model.config import RunConfig
from cxr_model.device import device_name, resolve_device
from cxr_model.environment import environment_record
from cxr_model.errors import DataError
from cxr_model.hygiene.candidates import near_hashes
from cxr_model.index import data_digest, patient_summary, read_index
from cxr_model.intervals import Estimate, share_estimate
from cxr_model.metrics import evaluate_predictions
from cxr_model.model_files import ModelCard
from cxr_model.predict import BATCH_SIZE, Predictor
from cxr_model.reliability.judgement import ABSTAINED, OUTLIER
from cxr_model.reports import figures
from cxr_model.reports.page import data_uri, template_environment
from cxr_model.run_folder import RunFolder, atomic_path, read_json, write_json, write_table
from cxr_model.splits import COLUMNS, EXTERNAL, group_films, write_splits

SCHEMA_VERSION = 1


COPY_BITS = 5
"""Films whose perceptual hashes differ in at most as many of 64 bits count as one picture. Of
1,123 real films 6 have one of another patient as near; of copies that were cropped by 1 to
3 %, re-exposed and re-encoded all at once, 0.60 are found, of merely re-encoded ones more."""


def unseen_films(run: RunFolder, model: RunFolder) -> tuple[pd.DataFrame, dict[str, int], int]:
    """The readable films of ``run``'s index that ``model`` has never met, and how many it has.

    Left out is whatever the index of the model's own data has, whichever split it was in:
    ``bytes`` counts films that are the same file, ``near`` those that show the same picture in
    other bytes, as their hashes tell (the pictures themselves are not published), ``relatives``
    what hangs together with any of these by copies, series or patient. A patient's number alone
    is no reason, as another hospital counts from one too: films that were kept and whose patient
    has a number of the model's own data are counted, third.

    Raises ``DataError`` where nothing is left or a class is none of the model's.
    """
    index = read_index(run.index)
    films = index[index["error"] == ""].assign(group=group_films(index), split=EXTERNAL)
    classes = ModelCard.read(model.model_card).classes
    unknown = sorted(set(films["label"]) - set(classes))
    if unknown:
        raise DataError(
            f"label {unknown[0]!r}: the model knows {', '.join(classes)}; map or drop it with "
            "labels, for example --set labels." + unknown[0] + "=none"
        )
    known = read_index(model.index)
    is_same = films["sha256"].isin(set(known["sha256"])).to_numpy()
    is_near = _shows_one_of(films["phash"], known.loc[known["error"] == "", "phash"])
    is_known = is_same | is_near
    is_left_out = films["group"].isin(set(films.loc[is_known, "group"])).to_numpy()
    if is_left_out.all():
        raise DataError(
            f"all {len(films)} films are of the model's own data; name a data set that it has "
            "not met"
        )
    left_out = {
        "bytes": int(is_same.sum()),
        "near": int((is_near & ~is_same).sum()),
        "relatives": int((is_left_out & ~is_known).sum()),
    }
    left = films[~is_left_out]
    numbers = set(known.loc[known["patient"] != "", "patient"])
    return left, left_out, int(left["patient"].isin(numbers).sum())


def _shows_one_of(phashes: pd.Series, known: pd.Series) -> NDArray[np.bool_]:
    """Whether each film's hash lies within ``COPY_BITS`` of a known one."""
    hashes = np.array([int(text, 16) for text in (*phashes, *known)], dtype=np.uint64)
    # Each value once: of several films with one hash `near_hashes` pairs only a few.
    values, place_N = np.unique(hashes, return_inverse=True)
    is_known = np.zeros(len(values), dtype=bool)
    is_known[place_N[len(phashes) :]] = True
    first, second, bits = near_hashes(values)
    is_close = bits <= COPY_BITS
    is_near = is_known.copy()
    is_near[first[is_close & is_known[second]]] = True
    is_near[second[is_close & is_known[first]]] = True
    shown: NDArray[np.bool_] = is_near[place_N[: len(phashes)]]
    return shown


def evaluate_elsewhere(
    run: RunFolder,
    run_id: str,
    model: RunFolder,
    config: RunConfig,
    cache: FilmCache,
    *,
    source: str,
) -> dict[str, Any]:
    """Predict every unseen film; returns ``metrics.json``.

    Writes it, the films with their groups, predictions and a page. Intervals are from a bootstrap
    over groups (patients, series, copies).
    """
    films, left_out, num_like = unseen_films(run, model)
    predictor = Predictor.load(model, resolve_device(config.training.device))
    card = predictor.card
    write_splits(films[list(COLUMNS)], run.splits)
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
            "num_left_out": sum(left_out.values()),
            "left_out": left_out,
            "same_patient_number": num_like,
            "absent_classes": [name for name in card.classes if name not in set(films["label"])],
            "patients": patient_summary(index),
        },
        "model": {"run_id": card.run_id, "sha256": predictor.digest},
        # Of the network's own run: they go with its figures, wherever these are measured.
        "gates": read_json(model.metrics).get("gates", []) if model.metrics.exists() else [],
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
    is_answer = decision == predictions["predicted"]

    def share(is_so: pd.Series, groups: pd.Series) -> Estimate:
        return share_estimate(is_so.to_numpy(), groups.to_numpy(dtype=str), draws=draws, seed=seed)

    answered = predictions[is_answer]
    return {
        "answered": share(is_answer, predictions["group"]),
        ABSTAINED: share(decision == ABSTAINED, predictions["group"]),
        OUTLIER: share(decision == OUTLIER, predictions["group"]),
        "accuracy_of_answers": share(answered["decision"] == answered["label"], answered["group"]),
    }


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
