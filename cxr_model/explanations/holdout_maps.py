"""Grad-CAM of the whole holdout, and what a method shows on average over a class's films."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxr_model.cache import Pixels
from cxr_model.explanations.attribution import small_grad_cam_maps
from cxr_model.network import Network
from cxr_model.run_folder import atomic_path

THUMBNAIL_PX = 128
MOST_FILMS = 1000

_BATCH = 64


def choose_holdout(predictions: pd.DataFrame, seed: int, most: int = MOST_FILMS) -> pd.DataFrame:
    """All holdout films; of more than ``most``, a sample and the surest mistakes outside of it.

    At most half are mistakes for their own sake; the column ``sampled`` is false for these.
    """
    films = predictions[predictions["split"] == "holdout"].assign(sampled=True)
    if len(films) <= most:
        return films
    columns = [name for name in films.columns if name.startswith("probability_")]
    wrong = films[films["predicted"] != films["label"]]
    surest = films.loc[wrong.index, columns].max(axis=1).nlargest(most // 2).index
    order = pd.Index(np.random.default_rng(seed).permutation(films.index))
    # The sample grows until it and the mistakes that it does not hold are as many as are wanted.
    num_sampled = most - len(surest)
    while num_sampled + (~surest.isin(order[:num_sampled])).sum() < most:
        num_sampled += 1
    sample = order[:num_sampled]
    chosen = films.loc[films.index.isin(sample) | films.index.isin(surest)]
    return chosen.assign(sampled=chosen.index.isin(sample))


class MeanMaps:
    """Sums of maps by method and class; a film's map counts by its own greatest value."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[NDArray[np.float64], int]] = {}

    def add(self, name: str, values_HW: NDArray[Any], count: int = 1) -> None:
        total, number = self._sums.get(name, (np.zeros(values_HW.shape), 0))
        self._sums[name] = (total + values_HW, number + count)

    def add_maps(self, method: str, classes: Sequence[str], maps_NHW: Tensor) -> None:
        """``classes`` (N,) names the class that each map speaks of."""
        values = maps_NHW.double().cpu().numpy()
        peaks = np.abs(values).max(axis=(1, 2), keepdims=True)
        for name, scaled in zip(classes, values / np.where(peaks > 0, peaks, 1), strict=True):
            self.add(f"{method}_{name}", scaled)

    def write(self, path: Path) -> None:
        """``mean.npz``: METHOD_CLASS float16 (H, W), film_CLASS uint8 (H, W[, 3]).

        Beside each, ``count_METHOD_CLASS`` or ``count_film_CLASS``: how many it is the mean of.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for name, (total, count) in self._sums.items():
            kind = np.uint8 if name.startswith("film_") else np.float16
            arrays |= {name: (total / count).astype(kind), f"count_{name}": np.array(count)}
        write_arrays(path, arrays)


def write_holdout(
    path: Path,
    films: pd.DataFrame,
    pixels_of: Callable[[Sequence[str]], Pixels],
    prepare: Callable[[Pixels], Tensor],
    network: Network,
    classes: Sequence[str],
    means: MeanMaps,
) -> None:
    """``holdout.npz``: path (N,), film uint8 thumbnails, grad-cam float16 (N, h, w).

    ``films`` has the columns path, sha256, predicted and sampled; ``pixels_of`` decodes digests,
    ``prepare`` makes the network's input of pixels. The films that are sampled and their maps
    of the predicted class go into ``means``.
    """
    thumbnails, cams = [], []
    for start in range(0, len(films), _BATCH):
        batch = films.iloc[start : start + _BATCH]
        pixels = pixels_of(batch["sha256"].tolist())
        x_NCHW = prepare(pixels)
        names = batch["predicted"].tolist()
        targets_N = torch.tensor([classes.index(name) for name in names], device=x_NCHW.device)
        small_Nhw = small_grad_cam_maps(network, x_NCHW, targets_N).float()
        size = x_NCHW.shape[2:]
        maps_N1HW = F.interpolate(small_Nhw[:, None], size=size, mode="bilinear")
        sampled = np.flatnonzero(batch["sampled"])
        means.add_maps("grad-cam", [names[k] for k in sampled], maps_N1HW[sampled, 0])
        for k in sampled:
            means.add(f"film_{names[k]}", pixels[k])
        thumbnails += [_thumbnail(film) for film in pixels]
        cams.append(small_Nhw.cpu().numpy().astype(np.float16))
    arrays = {
        "path": films["path"].to_numpy(dtype=np.str_),
        "film": np.stack(thumbnails),
        "grad-cam": np.concatenate(cams),
    }
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """A compressed ``.npz`` that is there whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _thumbnail(film: Pixels) -> Pixels:
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    return np.asarray(Image.fromarray(film).resize(size, Image.Resampling.BILINEAR))
