"""Two classifiers on the same films: is one better, or was it luck?"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cxr_model.errors import DataError
from cxr_model.intervals import Array, Figure, count_groups, draw_figures, mean_of_rates
from cxr_model.metrics import figure_slacks, weighted_figures

_COMPARED = ("accuracy", "balanced_accuracy", "macro_f1")


def compare_predictions(
    first: pd.DataFrame, second: pd.DataFrame, classes: list[str], *, draws: int, seed: int
) -> dict[str, Any]:
    """Paired bootstrap over groups and McNemar's test, first minus second.

    Beside the differences, ``first`` and ``second`` hold the figures of each; ``fewest_groups``
    is how many groups the class with the fewest has. Draws of very few stray too little
    (`run_comparison.LEAST_GROUPS`).

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
    both = []
    for table in (first, second):
        scores_NC = table[[f"probability_{name}" for name in classes]].to_numpy(np.float64)
        both.append(_figures(truth_N, scores_NC, groups_N, draws=draws, seed=seed))
    hits = [(table["predicted"] == table["label"]).to_numpy() for table in (first, second)]
    return {
        "n": num,
        "num_groups": int(first["group"].nunique()),
        "fewest_groups": int(first.groupby("label")["group"].nunique().min()),
        **{name: both[0][name].less(both[1][name]).estimate(num) for name in _COMPARED},
        **{
            which: {name: figures[name].estimate(num) for name in _COMPARED}
            for which, figures in zip(("first", "second"), both, strict=True)
        },
        "mcnemar": mcnemar(int((hits[0] & ~hits[1]).sum()), int((~hits[0] & hits[1]).sum())),
    }


def _figures(
    truth_N: Array, scores_NC: Array, groups_N: Array, *, draws: int, seed: int
) -> dict[str, Figure]:
    point, drawn = draw_figures(
        partial(weighted_figures, truth_N, scores_NC), groups_N, draws=draws, seed=seed
    )
    slacks = figure_slacks(point, drawn, truth_N, scores_NC.argmax(axis=1), groups_N)
    present = np.unique(truth_N)
    num_groups_C = count_groups(groups_N, truth_N == present[:, None])
    below, above = slacks["macro_f1"].tolist()
    return {
        "accuracy": mean_of_rates(
            point["accuracy"][None], drawn["accuracy"][None], np.array([len(np.unique(groups_N))])
        ),
        "balanced_accuracy": mean_of_rates(
            point["sensitivity"][present], drawn["sensitivity"][present], num_groups_C
        ),
        "macro_f1": Figure(
            float(point["macro_f1"]), drawn["macro_f1"], (below, above), (below, above)
        ),
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
