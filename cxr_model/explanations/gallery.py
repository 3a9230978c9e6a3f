"""Explanations of a run's holdout films, written to ``attributions/``, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxr_model.cache import FilmCache, Pixels, Progress
from cxr_model.config import ExplainConfig, RunConfig
from cxr_model.device import resolve_device
from cxr_model.explanations.attribution import choose_films, explain_film, grad_cam_maps
from cxr_model.explanations.checks import CheckedFilms, check_methods
from cxr_model.explanations.holdout_maps import (
    MeanMaps,
    choose_holdout,
    write_arrays,
    write_holdout,
)
from cxr_model.explanations.localisation import peaks_inside
from cxr_model.explanations.lung_field import lung_field
from cxr_model.explanations.run_checks import choose_checked, run_methods
from cxr_model.films import films_to_tensor
from cxr_model.index import read_index
from cxr_model.intervals import share_estimate
from cxr_model.model_files import ModelCard, load_model
from cxr_model.network import Network
from cxr_model.run_folder import RunFolder, write_json, write_table
from cxr_model.splits import read_splits
from cxr_model.stages import read_predictions

INDEX_COLUMNS = ["path", "sha256", "label", "predicted", "probability", "chosen"]

_BATCH = 64
_NUM_BASELINES = 16  # training films that GradientShap starts from


def explain(
    run: RunFolder,
    config: RunConfig,
    cache: FilmCache,
    root: Path,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, Any]:
    """Write the maps of the holdout's films and check the methods; return the figures on
    them for ``metrics.json``.

    ``root`` is where the films lie: lesion masks, where the index knows of any, are read
    from below it. The checks' full record is ``evidence/explanations.json``.
    """
    device = resolve_device(config.training.device)
    network, card = load_model(run, device)
    predictions = read_predictions(run.predictions)
    masks = read_index(run.index).set_index("path")["mask"]
    source = _Films(card=card, cache=cache, root=root, masks=masks, device=device)
    splits = read_splits(run.splits)
    baselines_BCHW = source.prepare(source.pixels(_baseline_films(splits, config.explain.seed)))
    means = MeanMaps()
    kept = None if config.explain.checks else means
    _write_gallery(
        run, network, source, predictions, config.explain, baselines_BCHW, kept, progress
    )
    draws, seed = config.evaluate.bootstrap_draws, config.evaluate.seed
    figures = pointing_game(network, source, predictions, splits, draws=draws, seed=seed)
    write_holdout(
        run.attributions / "holdout.npz",
        choose_holdout(predictions, config.explain.seed),
        source.pixels, source.prepare, network, card.classes, means,
    )  # fmt: skip
    if config.explain.checks:
        figures["methods"] = _check(
            run, network, source, predictions, config.explain, baselines_BCHW, means
        )
    means.write(run.attributions / "mean.npz")
    return figures


@dataclass(frozen=True, kw_only=True)
class _Films:
    """A run's films as the network takes them, and their masks."""

    card: ModelCard
    cache: FilmCache
    root: Path
    masks: pd.Series
    """Path of a film to the path of its mask, empty where there is none."""
    device: torch.device

    def pixels(self, sha256s: Sequence[str]) -> Pixels:
        return self.cache.films[self.cache.rows(sha256s)]

    def prepare(self, pixels: Pixels) -> Tensor:
        return self.card.normalisation(films_to_tensor(pixels).to(self.device).float() / 255)

    def mask(self, path: str) -> NDArray[np.bool_] | None:
        mask = self.masks[path]
        return read_mask(self.root / mask, self.card.size_px) if mask else None

    def targets(self, names: Sequence[str]) -> Tensor:
        return torch.tensor([self.card.classes.index(n) for n in names], device=self.device)


def _baseline_films(splits: pd.DataFrame, seed: int) -> list[str]:
    """Digests of training films."""
    digests = splits.loc[splits["split"] == "train", "sha256"]
    order = np.random.default_rng(seed).permutation(len(digests))[:_NUM_BASELINES]
    return [str(digest) for digest in digests.iloc[np.sort(order)]]


def _write_gallery(
    run: RunFolder,
    network: Network,
    source: _Films,
    predictions: pd.DataFrame,
    config: ExplainConfig,
    baselines_BCHW: Tensor,
    means: MeanMaps | None,
    progress: Progress,
) -> None:
    """A file a film with its maps, and ``index.csv``; adds the predicted class's to ``means``."""
    classes = source.card.classes
    chosen = choose_films(predictions, config)
    rows: list[dict[str, Any]] = []
    for number, film in enumerate(chosen.to_dict("records")):
        pixels = source.pixels([film["sha256"]])
        arrays: dict[str, NDArray[Any]] = {"film": pixels[0]}
        mask = source.mask(film["path"])
        if mask is not None:
            arrays["mask"] = mask
        roles = {film["predicted"]: "predicted"}
        roles.setdefault(film["label"], "true")
        targets = [classes.index(name) for name in roles]
        maps = explain_film(network, source.prepare(pixels), targets, config, baselines_BCHW)
        about = {column: film[column] for column in INDEX_COLUMNS}
        for (method, target), map_HW in maps.items():
            array = f"{method}_{classes[target]}"
            arrays[array] = map_HW.astype(np.float16)
            rows.append(
                {"file": f"film-{number:02d}.npz", "array": array, **about}
                | {"method": method, "target": classes[target], "role": roles[classes[target]]}
            )
            if means is not None and target == targets[0] and method != "grad-cam":
                means.add_maps(method, [classes[target]], torch.from_numpy(map_HW)[None])
        write_arrays(run.attributions / f"film-{number:02d}.npz", arrays)
        progress(number + 1, len(chosen))
    write_table(run.attributions / "index.csv", pd.DataFrame(rows))


def _check(
    run: RunFolder,
    network: Network,
    source: _Films,
    predictions: pd.DataFrame,
    config: ExplainConfig,
    baselines_BCHW: Tensor,
    means: MeanMaps,
) -> dict[str, Any]:
    """Write ``evidence/explanations.json``; the verdict of each method."""
    chosen = choose_checked(predictions, config)
    names = chosen["predicted"].tolist()
    pixels = source.pixels(chosen["sha256"].tolist())
    nowhere = np.zeros((source.card.size_px, source.card.size_px), dtype=np.bool_)
    lesions = [source.mask(path) for path in chosen["path"]]
    group_of = read_splits(run.splits).set_index("path")["group"]
    films = CheckedFilms(
        x_NCHW=source.prepare(pixels),
        targets_N=source.targets(names),
        groups_N=chosen["path"].map(group_of).to_numpy(dtype=str),
        lungs_NHW=np.stack([lung_field(film) for film in pixels]),
        lesions_NHW=np.stack([nowhere if mask is None else mask for mask in lesions]),
    )

    def keep(method: str, maps_NHW: Tensor) -> None:
        if method != "grad-cam":  # whose mean is over the whole holdout
            means.add_maps(method, names, maps_NHW)

    methods = run_methods(config, baselines_BCHW)
    record = check_methods(network, films, methods, seed=config.seed, keep=keep)
    write_json(run.explanations, record)
    return {
        name: {"passed": method["passed"], "verdict": method["verdict"]}
        for name, method in record["methods"].items()
    }


def pointing_game(
    network: Network,
    source: _Films,
    predictions: pd.DataFrame,
    splits: pd.DataFrame,
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Share of correctly classified holdout films with a mask whose Grad-CAM peaks inside it.

    Empty where no such film has a mask.
    """
    films = predictions[
        (predictions["split"] == "holdout")
        & (predictions["predicted"] == predictions["label"])
        & (predictions["path"].map(source.masks) != "")
    ]
    if films.empty:
        return {}
    hits: list[NDArray[np.bool_]] = []
    for start in range(0, len(films), _BATCH):
        batch = films.iloc[start : start + _BATCH]
        found = [source.mask(path) for path in batch["path"]]
        masks_NHW = np.stack([mask for mask in found if mask is not None])
        x_NCHW = source.prepare(source.pixels(batch["sha256"].tolist()))
        cams = grad_cam_maps(network, x_NCHW, source.targets(batch["label"].tolist()))
        hits.append(peaks_inside(cams.cpu().numpy(), masks_NHW))
    groups_N = splits.set_index("path").loc[films["path"], "group"].to_numpy(dtype=str)
    share = share_estimate(np.concatenate(hits), groups_N, draws=draws, seed=seed)
    return {"grad_cam_pointing_game": share}


def read_mask(path: Path, size_px: int) -> NDArray[np.bool_]:
    """A lesion mask at the working size, squashed to the square as its film is."""
    with Image.open(path) as image:
        small = image.convert("L").resize((size_px, size_px), Image.Resampling.BOX)
    return np.asarray(small) >= 128
