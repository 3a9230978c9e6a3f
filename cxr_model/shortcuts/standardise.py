"""Films of one shape, one mode and one histogram: what the scanner and the archive left is gone."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxr_model.ahead import map_ahead
from cxr_model.cache import Color, Pixels, film_pixels, open_film, read_film
from cxr_model.errors import DataError
from cxr_model.films import FilmSet, films_to_tensor

Histogram = NDArray[np.float64]


def mean_histogram(films: FilmSet, num_classes: int) -> Histogram:
    """Share of each grey level (256,), each class of equal weight."""
    counts_CG = torch.zeros(num_classes, 256, dtype=torch.float64)
    for places_B in torch.split(torch.arange(len(films)), 64):
        targets_B = films.targets_N[places_B.to(films.device)]
        cells = targets_B[:, None] * 256 + films.gather(places_B).flatten(start_dim=1)
        counts_CG += (
            torch.bincount(cells.flatten(), minlength=num_classes * 256).cpu().view(-1, 256)
        )
    present_CG = counts_CG[counts_CG.sum(dim=1) > 0]
    shares: Histogram = (present_CG / present_CG.sum(dim=1, keepdim=True)).mean(dim=0).numpy()
    return shares


def match_histogram(pixels: Pixels, reference: Histogram) -> Pixels:
    """The film with its grey levels moved, in their order, so that they have these shares."""
    shares = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    # The middle of each level's rank, so that black stays at the dark end of black's share.
    rank = np.cumsum(shares) - shares / 2
    levels = np.interp(rank, np.cumsum(reference) - reference / 2, np.arange(256))
    return np.rint(levels).astype(np.uint8)[pixels]


def standardised_films(
    root: Path, films: pd.DataFrame, size_px: int, color: Color, reference: Histogram
) -> Tensor:
    """Films cut to their central square, 8-bit, with one histogram: uint8 (N, C, H, W).

    ``films`` has the columns path and sha256. Raises ``DataError`` for a film that is no longer
    as it was indexed.
    """

    def read(film: tuple[str, str]) -> Pixels:
        path, sha256 = film
        try:
            with open_film(read_film(root / path, sha256)) as image:
                pixels = film_pixels(_central_square(image), size_px, color)
        except (DataError, OSError) as error:
            raise DataError(f"{path}: is not as indexed ({error}); index the films anew") from error
        return match_histogram(pixels, reference)

    num_threads = os.cpu_count() or 1
    rows = films[["path", "sha256"]].itertuples(index=False, name=None)
    read_NHW = map_ahead(read, rows, num_threads=num_threads, num_ahead=4 * num_threads)
    return films_to_tensor(np.stack(list(read_NHW)))


def _central_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
