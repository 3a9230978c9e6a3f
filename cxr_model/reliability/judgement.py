"""What is said of a film: a class, or that it is no film to be judged, or that none is named.

As columns of a table of predictions, in this order: ``predicted`` (the most probable class,
whatever the decision), ``decision`` (a class, ``abstained`` or ``outlier``),
``probability_<class>``, ``calibrated_probability_<class>``, ``abstained``, ``outlier_score``
and ``is_outlier``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_model.model_files import Decision
from cxr_model.reliability.calibration import temper

Figures = NDArray[np.float64]

ABSTAINED, OUTLIER = "abstained", "outlier"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Of one film."""

    predicted: str
    """The most probable class."""
    decision: str
    """That class, ``abstained`` or ``outlier``."""
    probabilities: dict[str, float]
    calibrated_probabilities: dict[str, float]
    abstained: bool
    outlier_score: float | None
    """None where the run fitted no score."""
    is_outlier: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgements:
    """Of N films under one network with C classes."""

    classes: Sequence[str]
    probabilities_NC: Figures
    calibrated_NC: Figures
    abstained_N: NDArray[np.bool_]
    """The largest calibrated probability is too small for an answer."""
    outlier_score_N: Figures
    """NaN where the run fitted no score."""
    is_outlier_N: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        probabilities_NC: Figures,
        outlier_score_N: Figures | None,
        classes: Sequence[str],
        rules: Decision,
    ) -> "Judgements":
        calibrated_NC = temper(probabilities_NC, rules.temperature)
        scores_N = (
            np.full(len(probabilities_NC), np.nan) if outlier_score_N is None else outlier_score_N
        )
        above = np.inf if rules.outlier_above is None else rules.outlier_above
        return cls(
            classes=classes,
            probabilities_NC=probabilities_NC,
            calibrated_NC=calibrated_NC,
            abstained_N=calibrated_NC.max(axis=1, initial=0) < rules.abstain_below,
            outlier_score_N=scores_N,
            is_outlier_N=scores_N > above,
        )

    @classmethod
    def none(cls, classes: Sequence[str]) -> "Judgements":
        """Of no film."""
        figures_0C = np.empty((0, len(classes)))
        marks_0 = np.empty(0, dtype=bool)
        return cls(
            classes=classes,
            probabilities_NC=figures_0C,
            calibrated_NC=figures_0C,
            abstained_N=marks_0,
            outlier_score_N=np.empty(0),
            is_outlier_N=marks_0,
        )

    @property
    def predicted(self) -> list[str]:
        """The most probable class of each film."""
        return [self.classes[place] for place in self.probabilities_NC.argmax(axis=1)]

    @property
    def decisions(self) -> list[str]:
        """A class, or why there is none: an outlier's probabilities mean nothing at all."""
        return [
            OUTLIER if is_outlier else ABSTAINED if abstained else name
            for name, abstained, is_outlier in zip(
                self.predicted, self.abstained_N, self.is_outlier_N, strict=True
            )
        ]

    def rows(self) -> list[Judgement]:
        return [
            Judgement(
                predicted=predicted,
                decision=decision,
                probabilities=dict(zip(self.classes, row.tolist(), strict=True)),
                calibrated_probabilities=dict(zip(self.classes, calibrated.tolist(), strict=True)),
                abstained=bool(abstained),
                outlier_score=None if np.isnan(score) else float(score),
                is_outlier=bool(is_outlier),
            )
            for predicted, decision, row, calibrated, abstained, score, is_outlier in zip(
                self.predicted,
                self.decisions,
                self.probabilities_NC,
                self.calibrated_NC,
                self.abstained_N,
                self.outlier_score_N,
                self.is_outlier_N,
                strict=True,
            )
        ]

    def columns(self, is_decoded: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Columns for a table whose rows of ``is_decoded`` are these films, in their order.

        The other rows have empty names, NaN and False.
        """

        def spread(values: Any, rest: Any) -> NDArray[Any]:
            values = np.asarray(values, dtype=object if rest == "" else type(rest))
            column = np.full(len(is_decoded), rest, dtype=values.dtype)
            column[is_decoded] = values
            return column

        by_class = [
            (f"{kind}_{name}", spread(figures_NC[:, c], np.nan))
            for kind, figures_NC in (
                ("probability", self.probabilities_NC),
                ("calibrated_probability", self.calibrated_NC),
            )
            for c, name in enumerate(self.classes)
        ]
        return {
            "predicted": spread(self.predicted, ""),
            "decision": spread(self.decisions, ""),
            **dict(by_class),
            "abstained": spread(self.abstained_N, False),
            "outlier_score": spread(self.outlier_score_N, np.nan),
            "is_outlier": spread(self.is_outlier_N, False),
        }
