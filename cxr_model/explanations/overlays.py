"""Grad-CAM of the predicted class beside each film, as small JPEGs that bear its verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_model.cache import Pixels
from cxr_model.explanations.attribution import METHOD_TITLES, grad_cam_maps
from cxr_model.explanations.figure import (
    explanation_panel,
    film_tile,
    heat_map_tile,
    jpeg_bytes,
)
from cxr_model.predict import Predictor, ScoredBatch
from cxr_model.run_folder import atomic_path
from cxr_model.run_verdicts import SHOWN_METHOD

_NAME_LENGTH = 60  # file names have 255 bytes at most, and a letter up to four


def overlay_name(path: str, sha256: str) -> str:
    """``film-0123abcd.jpg``: films of one name differ in their digest."""
    return f"{Path(path).stem[:_NAME_LENGTH]}-{sha256[:8]}.jpg"


def heat_maps(predictor: Predictor, pixels: Pixels, targets: Sequence[int]) -> NDArray[np.float32]:
    """A map (H, W) for each decoded film of the class number beside it, (N, H, W)."""
    x_NCHW = predictor.card.normalisation(predictor.to_tensor(pixels).float() / 255)
    targets_N = torch.tensor(list(targets), device=x_NCHW.device)
    maps_NHW = grad_cam_maps(predictor.network, x_NCHW, targets_N)
    return cast(NDArray[np.float32], maps_NHW.float().cpu().numpy())


def write_overlays(batch: ScoredBatch, predictor: Predictor, folder: Path) -> None:
    """One file below ``folder`` for each film of the batch that could be decoded: the film, the
    map over it, the decision, and whether such maps passed their checks in the network's run.
    """
    films = batch.table[batch.table["error"] == ""]
    if films.empty:
        return
    classes = predictor.card.classes
    targets = [classes.index(name) for name in films["predicted"]]
    maps_NHW = heat_maps(predictor, batch.pixels, targets)
    names = map(overlay_name, films["path"], films["sha256"])
    answers = zip(names, films["decision"], films["predicted"], strict=True)
    for answer, pixels, map_HW in zip(answers, batch.pixels, maps_NHW, strict=True):
        name, decision, predicted = answer
        map_tile = heat_map_tile(pixels, map_HW, SHOWN_METHOD, None)
        tiles = [
            ("film", film_tile(pixels, None)),
            (f"{METHOD_TITLES[SHOWN_METHOD]}: {predicted}", map_tile),
        ]
        panel = explanation_panel(f"decision: {decision}", [tiles], predictor.verdicts.heat_maps)
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(jpeg_bytes(panel))
