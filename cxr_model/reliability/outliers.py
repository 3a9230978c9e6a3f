"""How far a film is from the training radiographs, and the bound beyond which it is marked.

Mahalanobis distance (Lee et al. 2018, arXiv:1807.03888) on `film_features` with the shrunk
covariance of Ledoit & Wolf 2004. The bound comes from the validation films alone, so that
the holdout tells what it is worth; ``docs/log.md`` has the scores that lost.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cxr_model.cache import FilmCache, Pixels
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.errors import DataError
from cxr_model.films import pixel_batches
from cxr_model.intervals import (
    Estimate,
    bootstrap_weights,
    estimate_from_draws,
    faultless_slack,
    share_estimate,
    widen,
)
from cxr_model.metrics import weighted_figures
from cxr_model.model_files import Decision, ModelCard, load_model
from cxr_model.network import Network
from cxr_model.reliability.film_features import describe_films
from cxr_model.reliability.strangers import FROM_FILMS, STRANGERS
from cxr_model.run_folder import RunFolder, atomic_path, write_json
from cxr_model.splits import draw_films, read_splits

Features = NDArray[np.float64]

FALSE_ALARM_RATE = 0.01
METHOD = (
    "Mahalanobis distance with shrunk covariance on two layers of the network and pixel statistics"
)
FORMAT_VERSION = "1"
MOST_FILMS = 1000
"""Drawn of each split; more change neither the fit nor an interval much."""
NUM_STRANGERS = 100
"""Of each kind."""
_RIDGE = 1e-9
"""Of unit variance: two training films, or films that are all alike, have no inverse without."""
_BATCH_SIZE = 16  # a CPU's caches hold its maps: a quarter faster than 64
_BINS = 40


@dataclass(frozen=True, eq=False)
class OutlierModel:
    """A Gaussian fitted to the training films' features (D,)."""

    mean_D: Features
    scale_D: Features
    """Standard deviations; a feature that never varies has 1."""
    whitening_DD: Features
    """Features less mean, over scale, times this have unit covariance."""

    @classmethod
    def fit(cls, features_ND: Features) -> "OutlierModel":
        from sklearn.covariance import LedoitWolf  # a second's import, which a prediction spares

        mean_D, scale_D = features_ND.mean(axis=0), features_ND.std(axis=0)
        scale_D[scale_D < 1e-6] = 1.0
        fitted = LedoitWolf(assume_centered=True).fit((features_ND - mean_D) / scale_D)
        covariance_DD = fitted.covariance_ + _RIDGE * np.eye(len(mean_D))
        whitening_DD = np.linalg.inv(np.linalg.cholesky(covariance_DD)).T
        return cls(mean_D, scale_D, np.ascontiguousarray(whitening_DD))  # as safetensors writes it

    def scores(self, features_ND: Features) -> NDArray[np.float64]:
        """(N,): root mean square of the whitened features, about 1 for a training film.

        Raises ``DataError`` for features of another network.
        """
        if features_ND.shape[1] != len(self.mean_D):
            raise DataError(
                f"outliers.safetensors: is for {len(self.mean_D)} features, the network has "
                f"{features_ND.shape[1]}; fetch the run again"
            )
        whitened_ND = ((features_ND - self.mean_D) / self.scale_D) @ self.whitening_DD
        return cast(NDArray[np.float64], np.sqrt(np.square(whitened_ND).mean(axis=1)))

    def write(self, path: Path) -> None:
        arrays = {"mean": self.mean_D, "scale": self.scale_D, "whitening": self.whitening_DD}
        with atomic_path(path) as temporary:
            save_file(
                {name: array.astype(np.float32) for name, array in arrays.items()},
                temporary,
                metadata={"format_version": FORMAT_VERSION},  # several stand in no fixed order
            )

    @classmethod
    def read(cls, path: Path) -> "OutlierModel":
        """Raises ``DataError`` where it is missing, cannot be read or is of another format."""
        try:
            with safe_open(path, "np") as file:
                version = (file.metadata() or {}).get("format_version")
                if version != FORMAT_VERSION:
                    raise DataError(
                        f"{path}: outlier format {version}, this version reads "
                        f"{FORMAT_VERSION}; train again or use the version that wrote it"
                    )
                arrays = [
                    file.get_tensor(name).astype(np.float64)
                    for name in ("mean", "scale", "whitening")
                ]
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path}: no readable outlier model ({error}); fetch the run again"
            ) from error
        return cls(*arrays)


def measure_outliers(run: RunFolder, config: RunConfig, cache: FilmCache) -> dict[str, Any]:
    """Fit on training films, set the bound on validation films, measure on the holdout.

    Writes ``model/outliers.safetensors``, ``outlier_above`` in ``model/decision.json`` and
    ``evidence/outliers.json``, and returns what the last one holds. Shares are of films that
    lie above the bound; AUROC tells the holdout's films from others. Intervals are from a
    bootstrap over groups.
    """
    decision = Decision.read(run.decision)
    network, card = load_model(run, resolve_device(config.training.device))
    rng = np.random.default_rng(config.evaluate.seed)
    splits = read_splits(run.splits)
    train, validation, holdout = (
        draw_films(splits[splits["split"] == split], MOST_FILMS, rng)
        for split in ("train", "validation", "holdout")
    )
    model = OutlierModel.fit(_describe(network, card, _pixels(train, cache)))
    model.write(run.outlier_model)
    model = OutlierModel.read(run.outlier_model)  # as predictions will have it: in float32

    def score(pixels: Pixels) -> NDArray[np.float64]:
        return model.scores(_describe(network, card, pixels))

    known = {"validation": score(_pixels(validation, cache))}
    threshold = float(np.quantile(known["validation"], 1 - FALSE_ALARM_RATE, method="higher"))
    known["holdout"] = score(_pixels(holdout, cache))
    sources = draw_films(holdout, NUM_STRANGERS, rng)
    films = _pixels(sources, cache)
    strange = {
        name: score(np.stack([make(film, rng) for film in films]))
        for name, make in STRANGERS.items()
    }
    groups = {"holdout": holdout["group"].to_numpy(dtype=str)} | {
        name: sources["group"].to_numpy(dtype=str) if name in FROM_FILMS else _alone(len(scores_N))
        for name, scores_N in strange.items()
    }
    draws, seed = config.evaluate.bootstrap_draws, config.evaluate.seed

    def flagged(scores_N: NDArray[np.float64], groups_N: NDArray[Any]) -> Estimate:
        return share_estimate(scores_N > threshold, groups_N, draws=draws, seed=seed)

    record = {
        "method": METHOD,
        "threshold": threshold,
        "rule": f"marks at most {FALSE_ALARM_RATE:.0%} of the validation films",
        "num_features": len(model.mean_D),
        "num_training_films": len(train),
        "holdout_flagged": flagged(known["holdout"], groups["holdout"]),
        "holdout_flagged_by_class": {
            name: flagged(known["holdout"][of_class_N], groups["holdout"][of_class_N])
            for name in card.classes
            for of_class_N in [(holdout["label"] == name).to_numpy()]
        },
        "auroc": {
            name: _auroc(
                known["holdout"],
                groups["holdout"],
                scores_N,
                groups[name],
                draws=draws,
                seed=seed,
            )
            for name, scores_N in strange.items()
        },
        "flagged": {name: flagged(scores_N, groups[name]) for name, scores_N in strange.items()},
        "scores": _histograms(known | strange),
    }
    replace(decision, outlier_above=threshold).write(run.decision)
    write_json(run.outliers, record)
    return record


def _pixels(films: pd.DataFrame, cache: FilmCache) -> Pixels:
    return cache.films[cache.rows(films["sha256"].tolist())]


def _describe(network: Network, card: ModelCard, pixels: Pixels) -> Features:
    device = next(network.parameters()).device
    batches = pixel_batches(pixels, _BATCH_SIZE, device)
    return describe_films(network, batches, card.normalisation)[1]


def _alone(count: int) -> NDArray[Any]:
    """Groups of drawn pictures: each is one of its own."""
    return np.array([f"drawn {number}" for number in range(count)])


def _auroc(
    known_N: NDArray[np.float64],
    known_groups: NDArray[Any],
    strange_M: NDArray[np.float64],
    strange_groups: NDArray[Any],
    *,
    draws: int,
    seed: int,
) -> Estimate:
    """Chance that a stranger's score lies above a film's; a film and its copy are drawn as one."""
    is_strange = np.repeat([0, 1], [len(known_N), len(strange_M)])
    scores = np.concatenate([known_N, strange_M])
    scores_NC = np.stack([-scores, scores], axis=1)
    groups = np.concatenate([known_groups, strange_groups])

    def auroc_B(weights_NB: NDArray[np.float64]) -> NDArray[np.float64]:
        figures = weighted_figures(is_strange, scores_NC, weights_NB)
        return cast(NDArray[np.float64], figures["auroc"][1])

    drawn = [auroc_B(w) for w in bootstrap_weights(groups, draws, np.random.default_rng(seed))]
    value = auroc_B(np.ones((len(scores), 1))).item()
    slack = faultless_slack(value, len(set(known_groups)), len(set(strange_groups)))
    return widen(estimate_from_draws(value, np.concatenate(drawn), len(scores)), slack)


def _histograms(scores: dict[str, NDArray[np.float64]]) -> dict[str, list[float]]:
    """Films a bin of each set, and the ``edges`` of the bins, evenly spaced in the logarithm."""
    together = np.maximum(np.concatenate(list(scores.values())), 1e-6)
    edges = np.geomspace(together.min(), together.max(), _BINS + 1)
    edges[0], edges[-1] = together.min(), together.max()  # geomspace rounds
    return {"edges": edges.tolist()} | {
        name: np.histogram(np.maximum(scores_N, 1e-6), edges)[0].tolist()
        for name, scores_N in scores.items()
    }
