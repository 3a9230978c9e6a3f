"""Grad-CAM of the predicted class over each film, as small JPEGs."""

from pathlib import Path

import torch

from cxr_model.explain import grad_cam_maps
from cxr_model.explanation_figure import heat_map_tile, jpeg_bytes
from cxr_model.predict import Predictor, ScoredBatch
from cxr_model.run_folder import atomic_path

_METHOD = "grad-cam"
_NAME_LENGTH = 60  # file names have 255 bytes at most, and a letter up to four


def overlay_name(path: str, sha256: str) -> str:
    """``film-0123abcd.jpg``: films of one name differ in their digest."""
    return f"{Path(path).stem[:_NAME_LENGTH]}-{sha256[:8]}.jpg"


def write_overlays(batch: ScoredBatch, predictor: Predictor, folder: Path) -> None:
    """One file below ``folder`` for each film of the batch that could be decoded."""
    films = batch.table[batch.table["error"] == ""]
    if films.empty:
        return
    classes = predictor.card.classes
    pixels_NCHW = predictor.to_tensor(batch.pixels)
    x_NCHW = predictor.card.normalisation(pixels_NCHW.float() / 255)
    targets = [classes.index(name) for name in films["predicted"]]
    maps_NHW = grad_cam_maps(
        predictor.network, x_NCHW, torch.tensor(targets, device=x_NCHW.device)
    ).cpu()
    names = map(overlay_name, films["path"], films["sha256"])
    for name, pixels, map_HW in zip(names, batch.pixels, maps_NHW.numpy(), strict=True):
        tile = heat_map_tile(pixels, map_HW, _METHOD, None)
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(jpeg_bytes(tile))
