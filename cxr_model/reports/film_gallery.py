"""The films of the report's gallery: small pictures, their heat maps, their probabilities."""

import io
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from numpy.typing import NDArray
from PIL import Image

from cxr_model.reports.page import data_uri
from cxr_model.run_folder import RunFolder
from cxr_model.run_verdicts import SHOWN_METHOD

Array = NDArray[Any]

QUALITY = 60  # of the JPEGs: half the bytes of 82, and no difference at this size


def gallery_films(
    run: RunFolder, paths_N: Array, truth_N: Array, scores_NC: Array, most_bytes: int
) -> list[dict[str, Any]]:
    """What of ``attributions/holdout.npz`` fits into ``most_bytes`` of JSON, in its order.

    ``paths_N``, ``truth_N`` (class indices) and ``scores_NC`` are the holdout's. Each film has
    ``path``, ``truth``, ``predicted``, ``p`` (C), ``film`` and ``heat`` (data URIs; ``heat``
    None where there is no map). Empty where the file is not there: a run without explanations.
    """
    row_of = {path: row for row, path in enumerate(paths_N.tolist())}
    films: list[dict[str, Any]] = []
    room = most_bytes
    for path, film, heat_map in _stored_films(run):
        row = row_of[path]
        record = {
            "path": path,
            "truth": int(truth_N[row]),
            "predicted": int(scores_NC[row].argmax()),
            "p": scores_NC[row].tolist(),
            "film": thumbnail(film),
            "heat": None if heat_map is None else heat_overlay(heat_map),
        }
        room -= len(htmlsafe_json_dumps(record)) + len(", ")
        if room < 0:
            break
        films.append(record)
    return films


def _stored_films(run: RunFolder) -> Iterator[tuple[str, Array, Array | None]]:
    """Path, film (H, W) or (H, W, 3) and heat map (h, w) of each film in the file."""
    file = run.attributions / "holdout.npz"
    if not file.is_file():
        return iter(())
    with np.load(file) as arrays:
        films, paths = arrays["film"], arrays["path"]
        heat_maps = arrays[SHOWN_METHOD] if SHOWN_METHOD in arrays else [None] * len(films)
    return zip(paths.tolist(), films, heat_maps, strict=True)


def thumbnail(film: Array) -> str:
    """A film (H, W) or (H, W, 3) of bytes as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return data_uri("image/jpeg", buffer.getvalue())


def heat_overlay(heat_map: Array) -> str:
    """A map (h, w) of numbers from 0 up as a transparent picture of its own few pixels.

    Strength, relative to the map's peak, is colour and opacity both; a map of zeros is clear.
    """
    values = np.nan_to_num(heat_map.astype(np.float32)).clip(0)
    strength = values / (values.max() or 1)
    colors = mpl.colormaps["inferno"](0.25 + 0.75 * strength, alpha=strength, bytes=True)
    buffer = io.BytesIO()
    Image.fromarray(colors).save(buffer, "PNG", optimize=True)
    return data_uri("image/png", buffer.getvalue())
