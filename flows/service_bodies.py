"""What `cxr serve` takes and answers, as its OpenAPI page tells it."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict

from cxr_model.predict import Predictor
from cxr_model.reports.page import data_uri
from cxr_model.run_verdicts import SHOWN_METHOD
from cxr_model.serving import Answer, Explanation


class _Body(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ExplanationBody(_Body):
    method: str
    verdict: str
    """Whether this method's heat maps passed their checks in the network's run."""
    target: str
    """The class that the heat map speaks for."""
    film: str
    """The film as the network sees it, a data URI."""
    overlay: str
    """The heat map over the film, a data URI."""

    @classmethod
    def of(cls, explanation: Explanation, predictor: Predictor) -> "ExplanationBody":
        return cls(
            method=SHOWN_METHOD,
            verdict=predictor.verdicts.heat_maps,
            target=explanation.target,
            film=data_uri("image/jpeg", explanation.film),
            overlay=data_uri("image/jpeg", explanation.overlay),
        )


class PredictionBody(_Body):
    run_id: str
    digest: str
    """SHA-256 of the network's weights."""
    predicted: str
    """The class of the highest probability, whatever the decision."""
    decision: str
    """That class; ``abstained`` where no class is probable enough; ``outlier`` where the film
    is unlike the radiographs of the training, and the probabilities mean nothing."""
    probabilities: dict[str, float]
    calibrated_probabilities: dict[str, float]
    """As often right as they say, on films like those of the validation."""
    abstained: bool
    outlier_score: float | None
    """About 1 for a film like those of the training; null where the run fitted no score."""
    is_outlier: bool
    """The score is above all but 1 % of the validation films'."""
    explanation: ExplanationBody | None = None

    @classmethod
    def of(cls, answer: Answer) -> "PredictionBody":
        found = answer.explanation
        return cls(
            run_id=answer.predictor.card.run_id,
            digest=answer.predictor.digest,
            **asdict(answer.judgement),
            explanation=ExplanationBody.of(found, answer.predictor) if found else None,
        )


class ModelBody(_Body):
    run_id: str
    digest: str
    """SHA-256 of the network's weights."""
    classes: list[str]
    size_px: int
    red_gates: list[str]
    """What the run failed of leakage, shortcut, calibration and explanation."""
    undecided_gates: list[str]
    """What of them nobody looked at, or could tell."""

    @classmethod
    def of(cls, model: Predictor) -> "ModelBody":
        card = model.card
        return cls(
            run_id=card.run_id,
            digest=model.digest,
            classes=card.classes,
            size_px=card.size_px,
            red_gates=list(model.verdicts.red_gates),
            undecided_gates=list(model.verdicts.undecided_gates),
        )


class HealthBody(_Body):
    model: ModelBody | None
    error: str | None
    """Why the last look for another model failed, in one line."""


class ProblemBody(_Body):
    detail: str
    """What is wrong and what helps, in one line."""


FILM_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A chest radiograph: JPEG, PNG, TIFF, DICOM and others.",
                        }
                    },
                }
            }
        },
    }
}
"""Told by hand: a parameter would have the whole body read before the key is asked for."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": ProblemBody, "description": "The key is missing or wrong."},
    413: {"model": ProblemBody, "description": "The file is too large."},
    422: {"model": ProblemBody, "description": "No film, or one that cannot be decoded."},
    503: {"model": ProblemBody, "description": "No model is loaded, or too much is under way."},
}
