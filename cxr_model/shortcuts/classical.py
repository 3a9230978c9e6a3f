"""Plain classifiers on what is left of a film without its lungs, or of its detail.

Each is fitted on the training split and says, for every holdout film, which class it is.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_model.bootstrap import Bootstrap
from cxr_model.films import FilmSet
from cxr_model.shortcuts.scores import (
    BORDER,
    METADATA,
    SURROUNDINGS,
    Array,
    Probe,
    one_hot,
)

_THUMBNAIL_PX = 16
_BORDER_PX, _RING_PX = 32, 2
_MOST_VALUES = 20
"""Rarer modes and formats than the commonest so many count as one."""


def metadata_probe(
    tables: Mapping[str, pd.DataFrame], train: FilmSet, bootstrap: Bootstrap
) -> Probe:
    """A random forest on size and file type (Breiman 2001), each class of equal weight.

    ``tables`` are rows of the index for ``train`` and ``holdout``. A file's length is left
    out: it grows with the texture of the picture, lungs included.
    """
    seen = _metadata_of_both(tables)
    forest = _forest(bootstrap, max_features="sqrt")
    called_N = _fit(forest, seen[0], train.targets_N.cpu().numpy(), seen[1])
    return Probe(
        name=METADATA,
        title="metadata",
        evidence="no lung",
        how="a random forest on width, height, aspect, mode and format, fitted on the training "
        "split",
        called_NC=one_hot(called_N, bootstrap.num_classes),
    )


def thumbnail_probe(train: FilmSet, holdout: FilmSet, bootstrap: Bootstrap) -> Probe:
    """Logistic regression on 16x16 thumbnails; each class of equal weight."""
    # Held in check: 256 grey levels would learn a few hundred films by heart.
    regression = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    seen = [_shrink(films, _THUMBNAIL_PX).reshape(len(films), -1) for films in (train, holdout)]
    model = make_pipeline(StandardScaler(), regression)
    called_N = _fit(model, seen[0], train.targets_N.cpu().numpy(), seen[1])
    return Probe(
        name="thumbnail",
        title="thumbnail of 16 px",
        evidence="both",
        how="logistic regression on the grey levels of 16x16 thumbnails, lungs included, fitted "
        "on the training split",
        called_NC=one_hot(called_N, bootstrap.num_classes),
    )


def border_probe(train: FilmSet, holdout: FilmSet, bootstrap: Bootstrap) -> Probe:
    """A forest on the outer 6 % of each side, shrunk to a ring of 2 px around 28 unseen ones."""
    seen = [_ring(films) for films in (train, holdout)]
    # A marker is a few grey levels of some hundred, and a tree has to come upon them.
    forest = _forest(bootstrap, max_features=0.3)
    called_N = _fit(forest, seen[0], train.targets_N.cpu().numpy(), seen[1])
    return Probe(
        name=BORDER,
        title="border of the film",
        evidence="no lung",
        how="a random forest on the outer 6 % of each side, shrunk to 240 grey levels, fitted on "
        "the training split",
        called_NC=one_hot(called_N, bootstrap.num_classes),
    )


def surroundings_probe(
    tables: Mapping[str, pd.DataFrame], train: FilmSet, holdout: FilmSet, bootstrap: Bootstrap
) -> Probe:
    """A forest on all that `metadata_probe` and `border_probe` see.

    One class is often told by its files and another by its border: neither probe alone says
    how far one gets without the lungs.
    """
    seen = [
        np.hstack([table_NF, _ring(films)])
        for table_NF, films in zip(_metadata_of_both(tables), (train, holdout), strict=True)
    ]
    forest = _forest(bootstrap, max_features=0.3)
    called_N = _fit(forest, seen[0], train.targets_N.cpu().numpy(), seen[1])
    return Probe(
        name=SURROUNDINGS,
        title="metadata and border",
        evidence="no lung",
        how="a random forest on what the two above it see, fitted on the training split",
        called_NC=one_hot(called_N, bootstrap.num_classes),
    )


def _forest(bootstrap: Bootstrap, max_features: float | str) -> RandomForestClassifier:
    return RandomForestClassifier(
        n_estimators=100,
        min_samples_leaf=5,
        max_features=max_features,
        class_weight="balanced",
        random_state=bootstrap.seed,
        n_jobs=-1,  # threads
    )


def _fit(model: ClassifierMixin, train_NF: Array, targets_N: Array, judged_NF: Array) -> Array:
    called_N: Array = model.fit(train_NF, targets_N).predict(judged_NF)
    return called_N


def _metadata_of_both(tables: Mapping[str, pd.DataFrame]) -> list[Array]:
    return [_metadata(films, tables["train"]) for films in (tables["train"], tables["holdout"])]


def _metadata(films: pd.DataFrame, known: pd.DataFrame) -> Array:
    """Numbers (N, F): sizes, and a column for each mode and format that ``known`` films have."""
    width, height = (films[name].to_numpy(np.float64) for name in ("width", "height"))
    columns = [width, height, width / height, width * height]
    for name in ("mode", "format"):
        for value in known[name].value_counts().index[:_MOST_VALUES]:
            columns.append((films[name] == value).to_numpy(np.float64))
    return np.stack(columns, axis=1)


def _ring(films: FilmSet) -> Array:
    """The grey levels (N, 240) of the outer 6 % of each side."""
    ring = np.ones((_BORDER_PX, _BORDER_PX), dtype=bool)
    ring[_RING_PX:-_RING_PX, _RING_PX:-_RING_PX] = False
    return _shrink(films, _BORDER_PX)[:, ring]


def _shrink(films: FilmSet, size_px: int) -> Array:
    """Mean grey of each of ``size_px`` x ``size_px`` parts of the films: float32 (N, s, s)."""
    small = [
        F.adaptive_avg_pool2d(pixels_BCHW.float().mean(dim=1), size_px).cpu()
        for pixels_BCHW in films.batches()
    ]
    shrunk: Array = torch.cat(small).numpy()
    return shrunk
