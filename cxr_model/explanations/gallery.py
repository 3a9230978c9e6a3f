"""Explanations of a run's holdout films, written to ``attributions/``."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from cxr_model.cache import FilmCache, Progress
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.explanations.attribution import (
    choose_films,
    explain_film,
    grad_cam_maps,
    peaks_inside,
)
from cxr_model.films import films_to_tensor
from cxr_model.index import read_index
from cxr_model.metrics import proportion_interval
from cxr_model.model_files import ModelCard, load_model
from cxr_model.network import Network
from cxr_model.run_folder import RunFolder, atomic_path, write_table
from cxr_model.stages import read_predictions

INDEX_COLUMNS = ["path", "sha256", "label", "predicted", "probability", "chosen"]


def explain(
    run: RunFolder,
    config: RunConfig,
    cache: FilmCache,
    root: Path,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, Any]:
    """Write the maps of the chosen films; return the figures on them for ``metrics.json``.

    ``root`` is where the films lie: lesion masks, where the index knows of any, are read
    from below it.
    """
    device = resolve_device(config.training.device)
    network, card = load_model(run, device)
    predictions = read_predictions(run.predictions)
    chosen = choose_films(predictions, config.explain)
    masks = read_index(run.index).set_index("path")["mask"]
    rows: list[dict[str, Any]] = []
    for number, film in enumerate(chosen.to_dict("records")):
        pixels = cache.films[cache.rows([film["sha256"]])]
        arrays: dict[str, NDArray[Any]] = {"film": pixels[0]}
        if masks[film["path"]]:
            arrays["mask"] = read_mask(root / masks[film["path"]], card.size_px)
        roles = {film["predicted"]: "predicted"}
        roles.setdefault(film["label"], "true")
        x_1CHW = _prepare(pixels, card, device)
        targets = [card.classes.index(name) for name in roles]
        name = f"film-{number:02d}.npz"
        for (method, target), map_HW in explain_film(
            network, x_1CHW, targets, config.explain
        ).items():
            target_name = card.classes[target]
            array = f"{method}_{target_name}"
            arrays[array] = map_HW.astype(np.float16)
            about = {column: film[column] for column in INDEX_COLUMNS}
            rows.append(
                {"file": name, "array": array, **about}
                | {"method": method, "target": target_name, "role": roles[target_name]}
            )
        with atomic_path(run.attributions / name) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        progress(number + 1, len(chosen))
    write_table(run.attributions / "index.csv", pd.DataFrame(rows))
    return pointing_game(network, card, predictions, masks, cache, root, device)


def pointing_game(
    network: Network,
    card: ModelCard,
    predictions: pd.DataFrame,
    masks: pd.Series,
    cache: FilmCache,
    root: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Share of correctly classified holdout films with a mask whose Grad-CAM peaks inside it.

    Empty where no such film has a mask.
    """
    films = predictions[
        (predictions["split"] == "holdout")
        & (predictions["predicted"] == predictions["label"])
        & (predictions["path"].map(masks) != "")
    ]
    if films.empty:
        return {}
    masks_NHW = np.stack([read_mask(root / masks[p], card.size_px) for p in films["path"]])
    x_NCHW = _prepare(cache.films[cache.rows(films["sha256"].tolist())], card, device)
    targets = torch.tensor([card.classes.index(name) for name in films["label"]], device=device)
    cams = grad_cam_maps(network, x_NCHW, targets).cpu().numpy()
    hits = int(peaks_inside(cams, masks_NHW).sum())
    return {"grad_cam_pointing_game": proportion_interval(hits, len(films))}


def read_mask(path: Path, size_px: int) -> NDArray[np.bool_]:
    """A lesion mask at the working size, squashed to the square as its film is."""
    with Image.open(path) as image:
        small = image.convert("L").resize((size_px, size_px), Image.Resampling.BOX)
    return np.asarray(small) >= 128


def _prepare(pixels: NDArray[np.uint8], card: ModelCard, device: torch.device) -> torch.Tensor:
    return card.normalisation(films_to_tensor(pixels).to(device).float() / 255)
