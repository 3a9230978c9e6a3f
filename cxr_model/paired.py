"""Two classifiers on the same films: is one better, or was it luck?"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cxr_model.errors import DataError
from cxr_model.metrics import (
    certain_slacks,
    draw_figures,
    estimate_from_draws,
    weighted_figures,
    widen,
)

_COMPARED = ("accuracy", "balanced_accuracy", "macro_f1")


def compare_predictions(
    first: pd.DataFrame, second: pd.DataFrame, classes: list[str], *, draws: int, seed: int
) -> dict[str, Any]:
    """Paired bootstrap over groups and McNemar's test, first minus second.

    Beside the differences, ``first`` and ``second`` hold the figures of each.

    Both tables have ``path``, ``label``, ``group``, ``predicted`` and a probability column a
    class, a row a film, of the same films; ``group`` is the first one's. Raises ``DataError``
    when they are not.
    """
    first, second = (table.sort_values("path").reset_index(drop=True) for table in (first, second))
    if first["path"].duplicated().any():
        raise DataError(f"{first['path'].mode()[0]}: is predicted twice; compare one repeat")
    if not first[["path", "label"]].equals(second[["path", "label"]]):
        raise DataError(
            f"{len(first)} and {len(second)} predictions: not of the same films and labels; "
            "compare runs on one data set"
        )
    truth_N = np.array([classes.index(label) for label in first["label"]])
    groups_N, num = first["group"].to_numpy(), len(first)
    points, drawn, slacks = [], [], []
    for table in (first, second):
        scores_NC = table[[f"probability_{name}" for name in classes]].to_numpy(np.float64)
        point, draw = draw_figures(
            partial(weighted_figures, truth_N, scores_NC), groups_N, draws=draws, seed=seed
        )
        points.append(point)
        drawn.append({name: draw[name] for name in _COMPARED})
        slacks.append(certain_slacks(point, truth_N, scores_NC.argmax(axis=1), groups_N))
    # What lowers the first lowers the difference, and what lowers the second raises it.
    between = {name: np.hypot(slacks[0][name], slacks[1][name][::-1]) for name in _COMPARED}
    hits = [(table["predicted"] == table["label"]).to_numpy() for table in (first, second)]
    return {
        "n": num,
        "num_groups": int(first["group"].nunique()),
        **{
            name: widen(
                estimate_from_draws(
                    float(points[0][name] - points[1][name]), drawn[0][name] - drawn[1][name], num
                ),
                between[name],
            )
            for name in _COMPARED
        },
        **{
            which: {
                name: widen(estimate_from_draws(float(point[name]), draw[name], num), slack[name])
                for name in _COMPARED
            }
            for which, point, draw, slack in zip(
                ("first", "second"), points, drawn, slacks, strict=True
            )
        },
        "mcnemar": mcnemar(int((hits[0] & ~hits[1]).sum()), int((~hits[0] & hits[1]).sum())),
    }


def mcnemar(only_first: int, only_second: int) -> dict[str, float | int]:
    """McNemar's exact test (1947) on the films that one alone gets right; two-sided.

    It takes films for independent; where a patient has several, the bootstrap is to be
    believed instead.
    """
    from scipy.stats import binomtest

    disagreeing = only_first + only_second
    p_value = float(binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0
    return {"only_first": only_first, "only_second": only_second, "p_value": p_value}
