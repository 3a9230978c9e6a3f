"""Two runs on the films that neither was trained on: which is better, in figures and words."""

from typing import Any

import pandas as pd

from cxr_model.errors import DataError
from cxr_model.folds import PROTOCOLS
from cxr_model.metrics import format_estimate
from cxr_model.paired import compare_predictions
from cxr_model.run_folder import RunFolder
from cxr_model.splits import read_splits
from cxr_model.stages import read_predictions

LEAST_FILMS = 30
"""Films that both runs must have in common; fewer decide nothing."""
_PREFIX = "probability_"


def compare_runs(first: RunFolder, second: RunFolder, *, draws: int, seed: int) -> dict[str, Any]:
    """What `compare_predictions` says of first minus second, on the films of `unseen_films`.

    Films are matched by content, whatever they are called. Raises ``DataError`` for runs of
    other classes and for fewer than `LEAST_FILMS` films in common.
    """
    ours, theirs = unseen_films(first), unseen_films(second)
    classes = [_classes(table) for table in (ours, theirs)]
    if set(classes[0]) != set(classes[1]):
        raise DataError(
            f"classes are {', '.join(classes[0])} in one run and {', '.join(classes[1])} in the "
            "other; compare runs of the same classes"
        )
    common = sorted(set(ours.index) & set(theirs.index))
    if len(common) < LEAST_FILMS:
        raise DataError(
            f"{len(common)} films are in both holdouts, fewer than {LEAST_FILMS}; compare runs on "
            "one data set, split alike, of more films or with a larger split.holdout_fraction"
        )
    # Their digests stand for the films: a path is another one in each run.
    pair = [table.loc[common].rename_axis("path").reset_index() for table in (ours, theirs)]
    return compare_predictions(pair[0], pair[1], classes[0], draws=draws, seed=seed)


def unseen_films(run: RunFolder) -> pd.DataFrame:
    """Predictions of films that the predicting network was not trained on, by digest.

    Of a training these are its holdout; of a cross-validation each film under the network of
    the fold that left it out, of the first repeat and, where there is one, of the grouped
    protocol. Columns ``label``, ``group``, ``predicted`` and the probabilities; copies are
    left out. Raises ``DataError`` for a folder that holds neither.
    """
    if run.predictions.exists():
        films = read_predictions(run.predictions).query("split == 'holdout'")
        group_of = read_splits(run.splits).set_index("path")["group"]
        films = films.assign(group=films["path"].map(group_of)).drop(columns="split")
    else:
        files = [run.protocol_predictions(protocol) for protocol in reversed(PROTOCOLS)]
        found = [file for file in files if file.exists()]
        if not found:
            raise DataError(
                f"{run.root}: holds no predictions; name a training or a cross-validation"
            )
        films = read_predictions(found[0]).query("repeat == 1")
        films = films.drop(columns=["repeat", "fold"])
    return films.drop_duplicates("sha256").set_index("sha256").drop(columns="path")


def tell_comparison(found: dict[str, Any], first: str, second: str) -> str:
    """One sentence on what `compare_runs` found; the bootstrap decides, McNemar is beside it."""
    gain = found["balanced_accuracy"]
    better, worse, estimate = first, second, gain
    if gain["value"] is not None and gain["value"] < 0:
        better, worse, estimate = second, first, _turned(gain)
    on = f"on {found['n']} films that neither was trained on"
    figures = (
        f"balanced accuracy differs by {format_estimate(estimate)}, McNemar "
        f"p = {found['mcnemar']['p_value']:.2g}"
    )
    if estimate["ci_low"] is not None and estimate["ci_low"] > 0:
        return f"{better} is better than {worse} {on}: {figures}"
    return f"no difference between {first} and {second} is shown {on}: {figures}"


def _turned(estimate: dict[str, Any]) -> dict[str, Any]:
    """The same difference, seen from the other side."""
    return estimate | {
        "value": -estimate["value"],
        "ci_low": -estimate["ci_high"],
        "ci_high": -estimate["ci_low"],
    }


def _classes(table: pd.DataFrame) -> list[str]:
    return [name.removeprefix(_PREFIX) for name in table.columns if name.startswith(_PREFIX)]
