"""What the files of each class have in common, and which one property gives the class away."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_model.hygiene.thumbnails import Thumbnails, in_parts
from cxr_model.intervals import Estimate, count_groups, draw_figures, mean_of_rates, ratio

HISTOGRAM_BINS = 32
_BORDER_PX = 2
_NUM_FOLDS = 5
_KINDS = ("mode", "format")
_MEASURES = (
    "width",
    "height",
    "aspect",
    "jpeg_quality",
    "chroma",
    "border_grey",
    "mean_grey",
)


def film_properties(films: pd.DataFrame, thumbnails_NHW: Thumbnails) -> pd.DataFrame:
    """A row a film: what a reader of files sees without looking at the lungs.

    Grey levels (0 to 255) are those of the thumbnail; ``border_grey`` is the mean of its outer
    two of 32 pixels.
    """
    inside = np.zeros(thumbnails_NHW.shape[1:], dtype=bool)
    inside[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = True
    return pd.DataFrame(
        {
            **{name: films[name].to_numpy() for name in (*_KINDS, "width", "height")},
            "aspect": (films["width"] / films["height"]).to_numpy(),
            "jpeg_quality": films["jpeg_quality"].to_numpy(),
            "chroma": films["chroma"].to_numpy(),
            "border_grey": in_parts(lambda part: part[:, ~inside].mean(axis=1), thumbnails_NHW),
            "mean_grey": thumbnails_NHW.mean(axis=(1, 2)),
        }
    )


def fingerprint(
    labels: Sequence[str], properties: pd.DataFrame, thumbnails_NHW: Thumbnails
) -> dict[str, Any]:
    """The part of that name in ``hygiene.json``: for each class the spread of each property."""
    label_N = np.array(labels)
    return {
        label: _class_record(properties[label_N == label], thumbnails_NHW[label_N == label])
        for label in dict.fromkeys(labels)
    }


def _histogram(thumbnails_NHW: Thumbnails) -> NDArray[np.int64]:
    """Counts of one row (1, bins), of all films together."""
    bins = thumbnails_NHW.ravel() // (256 // HISTOGRAM_BINS)
    return np.bincount(bins, minlength=HISTOGRAM_BINS)[None]


def _class_record(films: pd.DataFrame, thumbnails_NHW: Thumbnails) -> dict[str, Any]:
    jpegs = films.loc[films["jpeg_quality"] > 0, "jpeg_quality"]
    counts = in_parts(_histogram, thumbnails_NHW).sum(axis=0)
    return {
        "films": len(films),
        "width": _spread(films["width"]),
        "height": _spread(films["height"]),
        "aspect": _spread(films["aspect"]),
        "formats": {str(name): int(n) for name, n in films["format"].value_counts().items()},
        "modes": {str(name): int(n) for name, n in films["mode"].value_counts().items()},
        "jpeg_quality": _spread(jpegs) if len(jpegs) else None,
        "border_grey": _spread(films["border_grey"]),
        "mean_grey": _spread(films["mean_grey"]),
        "histogram": (counts / counts.sum()).round(5).tolist(),
    }


def _spread(values: pd.Series) -> dict[str, float]:
    low, middle, high = np.percentile(values.to_numpy(np.float64), (5, 50, 95)).round(3).tolist()
    return {"p5": low, "median": middle, "p95": high}


def told_apart_by(
    labels: Sequence[str],
    groups: Sequence[str],
    properties: pd.DataFrame,
    *,
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """How well one property alone tells the classes apart, best first, beside chance.

    Balanced accuracy of a decision tree with as many leaves as classes (for two a stump), on
    films of groups that it was not grown on (five folds), over all classes and of each class
    against the rest, with the interval over ``draws`` of whole groups; the trees stay the same
    in all of them. Empty where there is one class, or one has fewer groups than folds.
    """
    label_N, group_N = np.array(labels), np.array(groups)
    classes = list(dict.fromkeys(labels))
    if len(classes) < 2 or pd.Series(group_N).groupby(label_N).nunique().min() < _NUM_FOLDS:
        return []
    names = (*_KINDS, *_MEASURES)
    called_PN = np.stack(
        [_predict_unseen(properties[[name]], label_N, group_N, seed) for name in names]
    )
    member_CN = label_N == np.array(classes)[:, None]
    right_CPN = (called_PN == np.array(classes)[:, None, None]) == member_CN[:, None]

    def rates(weights_NB: NDArray[Any]) -> dict[str, NDArray[Any]]:
        among_KCN = np.stack([member_CN, ~member_CN])  # sensitivity, specificity
        due_KCB = among_KCN @ weights_NB
        given_KCPB = (right_CPN & among_KCN[:, :, None]) @ weights_NB
        shape = given_KCPB.shape
        return {"rates": ratio(given_KCPB, np.broadcast_to(due_KCB[:, :, None], shape))}

    points, drawn = draw_figures(rates, group_N, draws=draws, seed=seed)
    num_groups_KC = np.stack([count_groups(group_N, member_CN), count_groups(group_N, ~member_CN)])

    def mean(which: tuple[Any, Any], number: int) -> Estimate:
        """Of the rates that ``which`` picks by kind and class, of one property."""
        picked = (*which, number)
        rates_R = points["rates"][picked].ravel()
        drawn_RB = drawn["rates"][picked].reshape(len(rates_R), -1)
        figure = mean_of_rates(rates_R, drawn_RB, num_groups_KC[which].ravel())
        return figure.estimate(len(label_N))

    found = [
        {
            "property": name,
            "balanced_accuracy": mean((0, slice(None)), number),
            "chance": 1 / len(classes),
            "against_the_rest": {
                label: mean((slice(None), at), number) for at, label in enumerate(classes)
            },
        }
        for number, name in enumerate(names)
    ]
    return sorted(found, key=lambda row: (-row["balanced_accuracy"]["value"], row["property"]))


def _predict_unseen(
    values: pd.DataFrame, label_N: NDArray[Any], group_N: NDArray[Any], seed: int
) -> NDArray[Any]:
    """What a small tree on one property calls each film when it was grown on other groups."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    folds = StratifiedGroupKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
    tree = DecisionTreeClassifier(
        max_leaf_nodes=len(np.unique(label_N)), class_weight="balanced", random_state=seed
    )
    features = pd.get_dummies(values) if values.columns[0] in _KINDS else values
    predicted: NDArray[Any] = cross_val_predict(tree, features, label_N, groups=group_N, cv=folds)
    return predicted
