"""How accuracy falls when films are damaged: the holdout measured again, level by level."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cxr_model.cache import FilmCache, Pixels
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device, resolve_precision
from cxr_model.films import films_to_tensor, predict_logits
from cxr_model.intervals import Estimate, Figure, bootstrap_weights, count_groups, mean_of_rates
from cxr_model.model_files import load_model
from cxr_model.reliability.perturbations import PERTURBATIONS, Perturbation
from cxr_model.run_folder import RunFolder, write_json
from cxr_model.splits import read_splits

Array = NDArray[np.float64]

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
    films = _draw(read_splits(run.splits), np.random.default_rng(seed))
    pixels = cache.films[cache.rows(films["sha256"].tolist())]
    truth_N = np.array([card.classes.index(label) for label in films["label"]])
    bootstrap = _Bootstrap.of(films, truth_N, draws=config.evaluate.bootstrap_draws, seed=seed)

    def measure(changed: Pixels, precision: torch.dtype) -> "_Figures":
        batches = (
            films_to_tensor(changed[start : start + _BATCH_SIZE]).to(device)
            for start in range(0, len(changed), _BATCH_SIZE)
        )
        logits = predict_logits(network, batches, card.normalisation, precision=precision)
        return bootstrap.figures(logits.argmax(dim=1).cpu().numpy() == truth_N)

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


def _draw(splits: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    holdout = splits[splits["split"] == "holdout"]
    if len(holdout) <= MOST_FILMS:
        return holdout
    return holdout.iloc[np.sort(rng.choice(len(holdout), MOST_FILMS, replace=False))]


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


@dataclass(frozen=True, eq=False)
class _Bootstrap:
    """Draws of groups, the same for every condition."""

    is_class_CN: Array
    num_groups_C: Array
    num_groups: int
    weights_NB: Array
    """The first column is the films themselves, the others are draws."""

    @classmethod
    def of(
        cls, films: pd.DataFrame, truth_N: NDArray[np.int64], *, draws: int, seed: int
    ) -> "_Bootstrap":
        groups_N = films["group"].to_numpy(dtype=str)
        chunks = bootstrap_weights(groups_N, draws, np.random.default_rng(seed))
        weights_NB = np.concatenate([np.ones((len(films), 1)), *chunks], axis=1)
        present = np.unique(truth_N)  # a drawn part of the holdout may lack a class
        is_class_CN = truth_N == present[:, None]
        return cls(
            is_class_CN=is_class_CN.astype(np.float64),
            num_groups_C=count_groups(groups_N, is_class_CN),
            num_groups=len(np.unique(groups_N)),
            weights_NB=weights_NB,
        )

    def figures(self, is_hit_N: NDArray[np.bool_]) -> _Figures:
        films_CB = self.is_class_CN @ self.weights_NB
        hits_CB = (self.is_class_CN * is_hit_N) @ self.weights_NB
        # A draw without a film of some class has no balanced accuracy.
        sensitivity_CB = np.divide(
            hits_CB, films_CB, out=np.full_like(hits_CB, np.nan), where=films_CB > 0
        )
        accuracy_B = hits_CB.sum(0) / films_CB.sum(0)
        return _Figures(
            accuracy=mean_of_rates(
                accuracy_B[:1], accuracy_B[None, 1:], np.array([self.num_groups])
            ),
            balanced_accuracy=mean_of_rates(
                sensitivity_CB[:, 0], sensitivity_CB[:, 1:], self.num_groups_C
            ),
        )
