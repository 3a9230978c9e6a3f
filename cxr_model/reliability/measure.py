"""How far a run's numbers can be trusted, from its predictions alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.config import RunConfig
from cxr_model.errors import DataError
from cxr_model.model_files import Decision, ModelCard
from cxr_model.reliability.calibration import fit_temperature, measure_calibration, temper
from cxr_model.reliability.operating_points import (
    choose_thresholds,
    measure_operating_points,
    rates_at,
)
from cxr_model.reliability.selective import choose_abstention, measure_selective
from cxr_model.run_folder import RunFolder, write_json
from cxr_model.splits import read_splits
from cxr_model.stages import read_predictions

Array = NDArray[Any]


def measure_reliability(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    """Write ``evidence/reliability.json`` and ``model/decision.json``; return the former.

    Temperature, thresholds and abstention are chosen on the validation films, which have also
    chosen the epoch; every figure with an interval is the holdout's. An outlier bound that
    stands in the decision file is kept. Raises DataError where the run has no predictions of
    one of the two.
    """
    classes = ModelCard.read(run.model_card).classes
    validation, holdout = (_films(run, classes, split) for split in ("validation", "holdout"))
    drawn = {"draws": config.evaluate.bootstrap_draws, "seed": config.evaluate.seed}
    temperature = fit_temperature(validation.truth_N, validation.probabilities_NC)
    calibration = measure_calibration(
        holdout.truth_N, holdout.probabilities_NC, holdout.groups_N, classes, temperature, **drawn
    )
    validation, holdout = (films.tempered(temperature) for films in (validation, holdout))
    thresholds = choose_thresholds(validation.truth_N, validation.probabilities_NC, classes)
    rows = measure_operating_points(
        holdout.truth_N, holdout.probabilities_NC, holdout.groups_N, classes, thresholds, **drawn
    )
    for row in rows:
        c = classes.index(row["class"])
        scores_N = validation.probabilities_NC[:, c]
        row["validation"] = rates_at(validation.truth_N, scores_N, c, row["threshold"])
    abstain_below, rule = choose_abstention(
        validation.confidence_N, validation.hit_N, config.reliability.answered_accuracy
    )
    record = {
        "classes": classes,
        "calibration": calibration,
        "operating_points": rows,
        "risk_coverage": measure_selective(
            holdout.confidence_N, holdout.hit_N, holdout.groups_N, abstain_below, rule, **drawn
        ),
    }
    _write_decision(run, temperature, abstain_below, thresholds)
    write_json(run.reliability, record)
    return record


@dataclass(frozen=True)
class _Films:
    """Predictions of one split."""

    truth_N: Array
    probabilities_NC: Array
    groups_N: Array

    @property
    def confidence_N(self) -> Array:
        confidence_N: Array = self.probabilities_NC.max(axis=1)
        return confidence_N

    @property
    def hit_N(self) -> Array:
        hit_N: Array = (self.probabilities_NC.argmax(axis=1) == self.truth_N).astype(np.float64)
        return hit_N

    def tempered(self, temperature: float) -> "_Films":
        return _Films(self.truth_N, temper(self.probabilities_NC, temperature), self.groups_N)


def _films(run: RunFolder, classes: list[str], split: str) -> _Films:
    films = read_predictions(run.predictions)
    films = films[films["split"] == split]
    if not len(films):
        raise DataError(
            f"{run.predictions}: holds no {split} films; calibration needs a run with "
            "split.validation_fraction and split.holdout_fraction above 0"
        )
    group_of = read_splits(run.splits).set_index("path")["group"]
    return _Films(
        np.array([classes.index(label) for label in films["label"]]),
        films[[f"probability_{name}" for name in classes]].to_numpy(np.float64),
        films["path"].map(group_of).to_numpy(dtype=str),
    )


def _write_decision(
    run: RunFolder,
    temperature: float,
    abstain_below: float,
    thresholds: dict[str, dict[str, float]],
) -> None:
    outlier_above = Decision.read(run.decision).outlier_above if run.decision.exists() else None
    Decision(
        temperature=temperature,
        abstain_below=abstain_below,
        operating_points=thresholds,
        outlier_above=outlier_above,
    ).write(run.decision)
