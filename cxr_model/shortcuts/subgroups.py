"""How the model does on the films of each source that is known or can be inferred."""

from typing import Any

import numpy as np
import pandas as pd

from cxr_model.bootstrap import Bootstrap
from cxr_model.intervals import count_groups, mean_of_rates
from cxr_model.shortcuts.scores import Probe

_LEAST_FILMS = 5
_LEAST_SHARE = 0.02
"""Sizes that fewer of all films have are told together."""


def infer_sources(films: pd.DataFrame) -> dict[str, pd.Series]:
    """Kind of source to each film's source, from rows of the index.

    What files of one archive have in common: sub-class, patients named in the file names, file
    type, size. Kinds that part nothing are left out.
    """
    size = films["width"].astype(str) + "x" + films["height"].astype(str) + " px"
    shares = size.map(size.value_counts(normalize=True))
    kinds = {
        "sub-class": films["subclass"],
        "patient": films["patient"].eq("").map({True: "not named", False: "named"}),
        "file": films["format"] + " " + films["mode"],
        "size": size.where(shares >= _LEAST_SHARE, "other sizes"),
    }
    return {kind: source for kind, source in kinds.items() if source.nunique() > 1}


def measure_subgroups(
    model: Probe, holdout: pd.DataFrame, classes: list[str], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """The model's sensitivity on each source that a class comes from, if it comes from several.

    ``holdout`` are rows of the index in the bootstrap's order. A source that holds films of all
    classes has its balanced accuracy too. Sources of under 5 films are left out.
    """
    rows: list[dict[str, Any]] = []
    hit_N = model.called_NC[np.arange(len(holdout)), bootstrap.truth_N]
    for kind, source in infer_sources(holdout).items():
        for value in sorted(source.unique()):
            in_CN = (source == value).to_numpy() & (
                bootstrap.truth_N == np.arange(len(classes))[:, None]
            )
            point_C, drawn_CB = bootstrap.means(np.tile(hit_N, (len(classes), 1)), in_CN)
            counts = in_CN.sum(axis=1)
            name = f"{kind}: {value}"
            for c, label in enumerate(classes):
                elsewhere = (bootstrap.truth_N == c).sum() - counts[c]
                if counts[c] >= _LEAST_FILMS and elsewhere:
                    num_groups = count_groups(bootstrap.groups_N, in_CN[[c]])
                    figure = mean_of_rates(point_C[[c]], drawn_CB[[c]], num_groups)
                    found = bootstrap.estimate(figure, int(counts[c]))
                    rows.append(
                        {"source": name, "class": label, "n": int(counts[c]), "sensitivity": found}
                    )
            if counts.min() >= _LEAST_FILMS:
                n = int(counts.sum())
                hit_CN = np.tile(hit_N, (len(classes), 1))
                found = bootstrap.estimate(bootstrap.mean_rate(hit_CN, in_CN), n)
                rows.append({"source": name, "class": None, "n": n, "balanced_accuracy": found})
    return rows
