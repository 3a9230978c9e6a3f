"""How accuracy falls when films are damaged: the holdout measured again, level by level."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from cxr_model.bootstrap import Bootstrap
from cxr_model.cache import FilmCache, Pixels
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device, resolve_precision
from cxr_model.films import pixel_batches, predict_logits
from cxr_model.intervals import Estimate, Figure
from cxr_model.model_files import load_model
from cxr_model.reliability.perturbations import PERTURBATIONS, Perturbation
from cxr_model.run_folder import RunFolder, write_json
from cxr_model.splits import draw_films, read_splits

MOST_FILMS = 500
"""Of the holdout, drawn by the seed: each is predicted at all the levels."""
_BATCH_SIZE = 16  # a CPU's caches hold its maps: a third faster than 64


def measure_robustness(run: RunFolder, config: RunConfig, cache: FilmCache) -> dict[str, Any]:
    """Predict the holdout's films as they are and at each level of `PERTURBATIONS`.

    Writes ``evidence/robustness.json`` and returns what it holds. Every condition is measured
    on the same films and the same bootstrap draws of groups, so that ``change`` (balanced
    accuracy less that of the clean films) has a paired interval. Clean films are predicted in
    float32, as everywhere, the many damaged ones in the training's precision: bfloat16 takes
    two fifths of the time, and none of 192 films changed its class by it.
    """
    device = resolve_device(config.training.device)
    precision = resolve_precision(config.training.precision, device)
    network, card = load_model(run, device)
    seed = config.evaluate.seed
    splits = read_splits(run.splits)
    holdout = splits[splits["split"] == "holdout"]
    films = draw_films(holdout, MOST_FILMS, np.random.default_rng(seed))
    pixels = cache.films[cache.rows(films["sha256"].tolist())]
    truth_N = np.array([card.classes.index(label) for label in films["label"]])
    present, among_present_N = np.unique(truth_N, return_inverse=True)  # a drawn part may lack one
    bootstrap = Bootstrap(
        truth_N=among_present_N,
        groups_N=films["group"].to_numpy(dtype=str),
        num_classes=len(present),
        draws=config.evaluate.bootstrap_draws,
        seed=seed,
    )

    def measure(changed: Pixels, precision: torch.dtype) -> "_Figures":
        batches = pixel_batches(changed, _BATCH_SIZE, device)
        logits = predict_logits(network, batches, card.normalisation, precision=precision)
        hit_N = (logits.argmax(dim=1).cpu().numpy() == truth_N).astype(np.float64)
        accuracy = bootstrap.mean_rate(hit_N[None], np.ones((1, len(films)), dtype=bool))
        return _Figures(accuracy, bootstrap.class_mean(hit_N))

    clean = measure(pixels, torch.float32)
    conditions = []
    for perturbation, level, changed in _damaged(pixels, seed):
        found = measure(changed, precision)
        conditions.append(
            {"name": perturbation.name, "level": level, "unit": perturbation.unit}
            | {"clean_level": perturbation.clean}
            | found.estimates(len(films))
            | {"change": found.balanced_accuracy.less(clean.balanced_accuracy).estimate(len(films))}
        )
    record = {"clean": clean.estimates(len(films)), "conditions": conditions}
    write_json(run.robustness, record)
    return record


def _damaged(pixels: Pixels, seed: int) -> Iterator[tuple[Perturbation, float, Pixels]]:
    """Each condition's films; a film meets the same chance whatever the others are."""
    for perturbation in PERTURBATIONS:
        for level in perturbation.levels:
            changed = [
                perturbation.apply(film, level, np.random.default_rng([seed, number]))
                for number, film in enumerate(pixels)
            ]
            yield perturbation, level, np.stack(changed)


class _Figures(NamedTuple):
    accuracy: Figure
    balanced_accuracy: Figure

    def estimates(self, n: int) -> dict[str, Estimate]:
        return {name: figure.estimate(n) for name, figure in self._asdict().items()}
