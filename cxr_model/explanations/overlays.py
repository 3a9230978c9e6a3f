"""Grad-CAM of the predicted class over each film, as small JPEGs."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_model.cache import Pixels
from cxr_model.explanations.attribution import grad_cam_maps
from cxr_model.explanations.figure import heat_map_tile, jpeg_bytes
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
    """One file below ``folder`` for each film of the batch that could be decoded."""
    films = batch.table[batch.table["error"] == ""]
    if films.empty:
        return
    classes = predictor.card.classes
    targets = [classes.index(name) for name in films["predicted"]]
    maps_NHW = heat_maps(predictor, batch.pixels, targets)
    names = map(overlay_name, films["path"], films["sha256"])
    for name, pixels, map_HW in zip(names, batch.pixels, maps_NHW, strict=True):
        tile = heat_map_tile(pixels, map_HW, SHOWN_METHOD, None)
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(jpeg_bytes(tile))
