"""Plain classifiers on what is left of a film without its lungs, or of its detail.

Each is fitted on the training split and says, for every holdout film, which class it is.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cxr_model.films import FilmSet
from cxr_model.shortcuts.scores import Array, Judge, Probe, one_hot

THUMBNAIL_PX = 16
_MOST_VALUES = 20
"""Rarer modes and formats than the commonest so many count as one."""


def metadata_probe(
    train: pd.DataFrame, holdout: pd.DataFrame, targets_N: Array, judge: Judge
) -> Probe:
    """A random forest on size and file type (Breiman 2001), each class of equal weight.

    The tables are rows of the index. A file's length is left out: it grows with the texture
    of the picture, lungs included.
    """
    called_N = _fit(_forest(judge), _metadata(train, train), targets_N, _metadata(holdout, train))
    return Probe(
        name="metadata",
        title="metadata",
        evidence="no lung",
        how="a random forest on width, height, aspect, mode and format, fitted on the training "
        "split",
        called_NC=one_hot(called_N, judge.num_classes),
    )


def thumbnail_probes(train: FilmSet, holdout: FilmSet, judge: Judge) -> list[Probe]:
    """Logistic regression on 16x16 thumbnails, and a forest on their outermost ring alone.

    A marker is one grey level of the ring, which trees find among the others.
    """
    train_NHW, holdout_NHW = _thumbnails(train.batches()), _thumbnails(holdout.batches())
    targets_N = train.targets_N.cpu().numpy()
    ring = np.ones((THUMBNAIL_PX, THUMBNAIL_PX), dtype=bool)
    ring[1:-1, 1:-1] = False
    # Held in check: 256 grey levels would learn a few hundred films by heart.
    regression = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    regression = make_pipeline(StandardScaler(), regression)
    called, in_ring = (
        _fit(model, train_NHW[:, seen], targets_N, holdout_NHW[:, seen])
        for model, seen in ((regression, np.ones_like(ring)), (_forest(judge), ring))
    )
    return [
        Probe(
            name="thumbnail",
            title="thumbnail of 16 px",
            evidence="both",
            how="logistic regression on the grey levels of 16x16 thumbnails, lungs included, "
            "fitted on the training split",
            called_NC=one_hot(called, judge.num_classes),
        ),
        Probe(
            name="border",
            title="border of the thumbnail",
            evidence="no lung",
            how="a random forest on the outermost ring of a 16x16 thumbnail (6 % of each side), "
            "fitted on the training split",
            called_NC=one_hot(in_ring, judge.num_classes),
        ),
    ]


def _forest(judge: Judge) -> RandomForestClassifier:
    return RandomForestClassifier(
        n_estimators=200, min_samples_leaf=5, class_weight="balanced", random_state=judge.seed
    )


def _fit(model: ClassifierMixin, train_NF: Array, targets_N: Array, judged_NF: Array) -> Array:
    called_N: Array = model.fit(train_NF, targets_N).predict(judged_NF)
    return called_N


def _metadata(films: pd.DataFrame, known: pd.DataFrame) -> Array:
    """Numbers (N, F): sizes, and a column for each mode and format that ``known`` films have."""
    width, height = (films[name].to_numpy(np.float64) for name in ("width", "height"))
    columns = [width, height, width / height, width * height]
    for name in ("mode", "format"):
        for value in known[name].value_counts().index[:_MOST_VALUES]:
            columns.append((films[name] == value).to_numpy(np.float64))
    return np.stack(columns, axis=1)


def _thumbnails(batches: Iterable[Tensor]) -> Array:
    """Mean grey of each of 16x16 parts of uint8 films (B, C, H, W): float32 (N, 16, 16)."""
    small = [
        F.adaptive_avg_pool2d(pixels_BCHW.float().mean(dim=1), THUMBNAIL_PX).cpu()
        for pixels_BCHW in batches
    ]
    return torch.cat(small).numpy()
