"""Two runs on the films that neither was trained on: which is better, in figures and words."""

from typing import Any

import pandas as pd

from cxr_model.errors import DataError
from cxr_model.folds import PROTOCOLS
from cxr_model.intervals import format_estimate
from cxr_model.paired import compare_predictions
from cxr_model.run_folder import RunFolder
from cxr_model.splits import EXTERNAL, read_splits
from cxr_model.stages import read_predictions

LEAST_FILMS = 30
"""Films that both runs must have in common; fewer decide nothing."""
LEAST_GROUPS = 6
"""Of each class: of two equal networks whose accuracy varies by patient the first was called
better in 20 % of simulations with one group in a class, in 10 % with two, in 3 % with six or
more; 2.5 % would be right."""
_PREFIX = "probability_"
_UNSEEN = ("holdout", EXTERNAL)


def compare_runs(first: RunFolder, second: RunFolder, *, draws: int, seed: int) -> dict[str, Any]:
    """What `compare_predictions` says of first minus second, on the films of `unseen_films`.

    Films are matched by content, whatever they are called. ``protocol`` is that of the folds by
    which a cross-validation counts, None where both are trainings. Raises ``DataError`` for
    runs of other classes, cross-validations without a protocol in common, and fewer than
    `LEAST_FILMS` films in common.
    """
    protocol = _common_protocol(first, second)
    ours, theirs = unseen_films(first, protocol), unseen_films(second, protocol)
    classes = [_classes(table) for table in (ours, theirs)]
    if set(classes[0]) != set(classes[1]):
        raise DataError(
            f"classes are {', '.join(classes[0])} in one run and {', '.join(classes[1])} in the "
            "other; compare runs of the same classes"
        )
    common = sorted(set(ours.index) & set(theirs.index))
    if len(common) < LEAST_FILMS:
        raise DataError(
            f"{len(common)} films were unseen by both, fewer than {LEAST_FILMS}; compare runs on "
            "one data set, split alike, of more films or with a larger split.holdout_fraction, or "
            "what 'cxr evaluate' made of both networks on films of elsewhere"
        )
    # Their digests stand for the films: a path is another one in each run.
    pair = [table.loc[common].rename_axis("path").reset_index() for table in (ours, theirs)]
    found = compare_predictions(pair[0], pair[1], classes[0], draws=draws, seed=seed)
    return {"protocol": protocol, **found}


def _common_protocol(first: RunFolder, second: RunFolder) -> str | None:
    """``grouped`` where both have it: a difference of protocols is none of networks.

    Films of a training are dealt by group too.
    """
    crossvals = [run for run in (first, second) if not run.predictions.exists()]
    if not crossvals:
        return None
    for protocol in reversed(PROTOCOLS) if len(crossvals) == 2 else ["grouped"]:
        if all(run.protocol_predictions(protocol).exists() for run in crossvals):
            return protocol
    if len(crossvals) == 2 and all(map(_protocols, crossvals)):
        raise DataError(
            f"folds are {_protocols(first)[0]} in one run and {_protocols(second)[0]} in the "
            "other; compare cross-validations of one protocol"
        )
    for run in crossvals:
        if not _protocols(run):
            raise DataError(
                f"run {run.root.name}: holds no predictions; name a training, a cross-validation "
                "or an evaluation"
            )
    raise DataError(
        f"run {crossvals[0].root.name}: has naive folds only, where a film's relatives were "
        "trained on; compare a training with a cross-validation of --protocol grouped"
    )


def _protocols(run: RunFolder) -> list[str]:
    return [name for name in PROTOCOLS if run.protocol_predictions(name).exists()]


def unseen_films(run: RunFolder, protocol: str | None) -> pd.DataFrame:
    """Predictions of films that the predicting network was not trained on, by digest.

    Of a training these are its holdout, of an evaluation all of them; of a cross-validation each
    film under the network of the fold that left it out, of the first repeat of ``protocol``.
    Columns ``label``,
    ``group``, ``predicted`` and the probabilities; copies are left out.
    """
    if run.predictions.exists():
        films = read_predictions(run.predictions).query("split in @_UNSEEN")
        group_of = read_splits(run.splits).set_index("path")["group"]
        films = films.assign(group=films["path"].map(group_of)).drop(columns="split")
    else:
        assert protocol
        films = read_predictions(run.protocol_predictions(protocol)).query("repeat == 1")
        films = films.drop(columns=["repeat", "fold"])
    return films.drop_duplicates("sha256").set_index("sha256").drop(columns="path")


def is_better(found: dict[str, Any]) -> bool:
    """Whether the first is shown to be, by the interval of the balanced accuracy's difference."""
    low = found["balanced_accuracy"]["ci_low"]
    return low is not None and low > 0 and found["fewest_groups"] >= LEAST_GROUPS


def too_few_groups(found: dict[str, Any]) -> str:
    """Empty, or why nothing could be shown."""
    fewest = found["fewest_groups"]
    if fewest >= LEAST_GROUPS:
        return ""
    return f"; a class has {fewest} groups of films only, and {LEAST_GROUPS} at least can tell"


def tell_comparison(found: dict[str, Any], first: str, second: str) -> str:
    """One sentence on what `compare_runs` found; the bootstrap decides, McNemar is beside it."""
    on = f"on {found['n']} films that neither was trained on"
    turned = found | {"balanced_accuracy": _turned(found["balanced_accuracy"])}
    for each, better, worse in ((found, first, second), (turned, second, first)):
        if is_better(each):
            return f"{better} is better than {worse} {on}: {_figures(each)}"
    few = too_few_groups(found)
    return f"no difference between {first} and {second} is shown {on}: {_figures(found)}{few}"


def _figures(found: dict[str, Any]) -> str:
    return (
        f"balanced accuracy differs by {format_estimate(found['balanced_accuracy'])}, McNemar "
        f"p = {found['mcnemar']['p_value']:.2g}"
    )


def _turned(estimate: dict[str, Any]) -> dict[str, Any]:
    """The same difference, seen from the other side."""
    if estimate["value"] is None:
        return estimate
    return estimate | {
        "value": -estimate["value"],
        "ci_low": -estimate["ci_high"],
        "ci_high": -estimate["ci_low"],
    }


def _classes(table: pd.DataFrame) -> list[str]:
    return [name.removeprefix(_PREFIX) for name in table.columns if name.startswith(_PREFIX)]
