"""Every method of explanation put to the test on films of the holdout.

The tests that need many maps run on fewer films, and the one that needs a map for each layer
on a method's coarser variant where it has one; each figure carries its n.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.metrics import sensitivity_max
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_model.explanations import faithfulness, verdicts
from cxr_model.explanations.attribution import captum_noise
from cxr_model.explanations.faithfulness import Array, cells
from cxr_model.explanations.localisation import energy_inside, peaks_inside
from cxr_model.explanations.lung_field import LUNG_FIELD_METHOD, LUNG_FIELD_QUALITY
from cxr_model.explanations.randomisation import SIDE, cascade, similarity, spearman
from cxr_model.explanations.verdicts import Check, bound_check, mean_estimate, paired_check

log = logging.getLogger(__name__)

Explain = Callable[[nn.Module, Tensor, Tensor, int], tuple[Tensor, Tensor | None]]
"""Network, films (N, C, H, W), classes (N,), seed: maps (N, H, W) and convergence deltas (N,)."""

RADIUS = 0.05
"""Greatest change of a pixel in the sensitivity and repeatability tests, in standard
deviations of the training films' grey: about three of 256 grey levels, which no eye sees."""
NUM_PERTURBATIONS = 2  # of each film, for sensitivity
NUM_SQUARES = 16  # on each film, for infidelity
FEW_FILMS = 4  # at least, and one in three: for tests with a map a layer or a perturbation


@dataclass(frozen=True, kw_only=True)
class Method:
    title: str
    explain: Explain
    quick: Explain | None = None
    """A coarser variant for the randomisation test, which needs a map for each layer."""
    baselines_BCHW: Tensor | None = None
    """Films that the maps' sum starts from, where it is not the grey one of zeros."""
    most_delta: float = verdicts.MOST_DELTA


@dataclass(frozen=True, kw_only=True)
class CheckedFilms:
    """Normalised films with the class explained of each, and where evidence can lie."""

    x_NCHW: Tensor
    targets_N: Tensor
    groups_N: NDArray[np.str_]
    """What is drawn as a whole for the intervals: a patient's films for one."""
    lungs_NHW: NDArray[np.bool_]
    lesions_NHW: NDArray[np.bool_]
    """Empty where a film has no mask."""

    def few(self) -> "CheckedFilms":
        """Some of them, from all over the list and so of every class."""
        total = len(self.x_NCHW)
        num_few = min(max(FEW_FILMS, total // 3), total)
        rows = np.unique(np.linspace(0, total - 1, num_few).round().astype(int))
        return CheckedFilms(
            x_NCHW=self.x_NCHW[rows],
            targets_N=self.targets_N[rows],
            groups_N=self.groups_N[rows],
            lungs_NHW=self.lungs_NHW[rows],
            lesions_NHW=self.lesions_NHW[rows],
        )


def check_methods(
    network: nn.Module,
    films: CheckedFilms,
    methods: Mapping[str, Method],
    *,
    seed: int,
    keep: Callable[[str, Tensor], None] = lambda _method, _maps_NHW: None,
) -> dict[str, Any]:
    """The record of ``evidence/explanations.json``; ``network`` must be in eval mode.

    ``keep`` gets each method's name and its maps (N, H, W) of all the films.
    """
    begun = time.perf_counter()
    shared = _Shared(network, films, seed)
    records = {}
    for name, method in methods.items():
        log.info("explanations: %s is put to the test", method.title)
        explained = method.explain(network, films.x_NCHW, films.targets_N, seed)
        records[name] = _check_method(network, films, method, explained, shared, seed)
        keep(name, explained[0])
    return {
        "methods": records,
        "baselines": {
            name: faithfulness.mean_curves(*curves)
            for name, curves in shared.baseline_curves.items()
        },
        "lung_field": {"method": LUNG_FIELD_METHOD, **LUNG_FIELD_QUALITY},
        "num_films": len(films.x_NCHW),
        "num_groups": len(np.unique(films.groups_N)),
        "num_films_few": len(films.few().x_NCHW),
        "radius": RADIUS,
        "samples": NUM_PERTURBATIONS,
        "squares": NUM_SQUARES,
        "seconds": round(time.perf_counter() - begun, 2),
    }


class _Shared:
    """What all methods are measured against, computed once."""

    def __init__(self, network: nn.Module, films: CheckedFilms, seed: int) -> None:
        x_NCHW, size_px = films.x_NCHW, films.x_NCHW.shape[-1]
        generator = torch.Generator().manual_seed(seed)
        self.center_NHW = faithfulness.center_prior(len(x_NCHW), size_px)
        random_NHW = faithfulness.random_maps(len(x_NCHW), size_px, generator)
        baselines = {"random": random_NHW, "centre": self.center_NHW}
        self.baseline_curves = {
            name: faithfulness.removal_curves(network, x_NCHW, films.targets_N, maps_NHW)
            for name, maps_NHW in baselines.items()
        }
        self.masks_NSHW = faithfulness.square_masks(
            len(x_NCHW), size_px, NUM_SQUARES, max(1, size_px // 6), generator
        )
        self.falls_NS = faithfulness.falls(network, x_NCHW, films.targets_N, self.masks_NSHW)
        self.baseline_infidelity = {
            name: faithfulness.infidelity(maps_NHW, self.masks_NSHW, self.falls_NS)
            for name, maps_NHW in baselines.items()
        }
        self.scores_N = faithfulness.class_scores(network, x_NCHW, films.targets_N)


def _check_method(
    network: nn.Module,
    films: CheckedFilms,
    method: Method,
    explained: tuple[Tensor, Tensor | None],
    shared: _Shared,
    seed: int,
) -> dict[str, Any]:
    maps_NHW, deltas_N = explained
    curves = faithfulness.removal_curves(network, films.x_NCHW, films.targets_N, maps_NHW)
    checks = _removal_checks(curves, films, shared, seed)
    randomisation, alike = _randomisation(network, films.few(), method, seed)
    checks += alike
    checks += _stability_checks(network, films.few(), method, seed)
    if deltas_N is not None:
        change_N = shared.scores_N - _baseline_scores(network, films, method)
        checks.append(_completeness_check(deltas_N, change_N, films, method, seed))
    checks += _localisation_checks(maps_NHW, films, shared, seed)
    checks.append(_infidelity_check(maps_NHW, films, shared, seed))
    passed, verdict = verdicts.judge(method.title, checks)
    return {
        "title": method.title,
        "passed": passed,
        "verdict": verdict,
        "checks": checks,
        "randomisation": randomisation,
        "curves": faithfulness.mean_curves(*curves),
    }


def _baseline_scores(network: nn.Module, films: CheckedFilms, method: Method) -> Array:
    """Mean score of what the method's sums start from, of each film's class, (N,)."""
    grey_1CHW = torch.zeros_like(films.x_NCHW[:1])
    start_BCHW = grey_1CHW if method.baselines_BCHW is None else method.baselines_BCHW
    with torch.no_grad():
        logits_C = network(start_BCHW).double().mean(dim=0)
    return np.asarray(logits_C[films.targets_N].cpu().numpy())


def _completeness_check(
    deltas_N: Tensor, change_N: Array, films: CheckedFilms, method: Method, seed: int
) -> Check:
    share_N = abs(deltas_N.double().cpu().numpy()) / max(1e-9, abs(change_N).mean())
    title = "Completeness error, share of the logit's change"
    estimate = mean_estimate(share_N, films.groups_N, seed)
    return bound_check("convergence-delta", title, estimate, method.most_delta, "lower")


def _removal_checks(
    curves: tuple[Array, Array], films: CheckedFilms, shared: _Shared, seed: int
) -> list[Check]:
    drawn: dict[str, Any] = {"groups_N": films.groups_N, "seed": seed}
    checks = []
    for side, (name, better) in enumerate((("insertion", "higher"), ("deletion", "lower"))):
        references = {
            label: faithfulness.curve_area(both[side])
            for label, both in shared.baseline_curves.items()
        }
        areas = faithfulness.curve_area(curves[side])
        title = f"{name.capitalize()}, area under the probability"
        checks.append(paired_check(name, title, areas, references, better, **drawn))  # type: ignore[arg-type]
    return checks


def _randomisation(
    network: nn.Module, films: CheckedFilms, method: Method, seed: int
) -> tuple[list[dict[str, Any]], list[Check]]:
    """Likeness to the trained network's map, layer by layer from the head down."""
    explain = method.quick or method.explain
    trained_NHW, _ = explain(network, films.x_NCHW, films.targets_N, seed)
    rows: list[dict[str, Any]] = []
    for layer, randomised in cascade(network, seed):
        maps_NHW, _ = explain(randomised, films.x_NCHW, films.targets_N, seed)
        correlation = abs(spearman(trained_NHW, maps_NHW))
        likeness = similarity(trained_NHW, maps_NHW)
        rows.append(
            {
                "layer": layer,
                "spearman": mean_estimate(correlation, films.groups_N, seed),
                "ssim": mean_estimate(likeness, films.groups_N, seed),
            }
        )
    return rows, [
        bound_check(
            "randomised-spearman", "Rank correlation with random weights",
            rows[-1]["spearman"], verdicts.MOST_RANDOMISED_SPEARMAN, "lower",
        ),
        bound_check(
            "randomised-ssim", "Structural similarity with random weights",
            rows[-1]["ssim"], verdicts.MOST_RANDOMISED_SSIM, "lower",
        ),
    ]  # fmt: skip


def _stability_checks(
    network: nn.Module, films: CheckedFilms, method: Method, seed: int
) -> list[Check]:
    """Two seeds, each with its own weak noise on the film; then Captum's sensitivity_max."""
    explain = method.explain

    def with_noise(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        noise = 2 * torch.rand(films.x_NCHW.shape, generator=generator) - 1
        films_NCHW = films.x_NCHW + RADIUS * noise.to(films.x_NCHW.device)
        return explain(network, films_NCHW, films.targets_N, number)[0]

    def cells_of(x: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, ...]:
        return (cells(explain(network, x[0], target, seed)[0], SIDE),)

    repeated = spearman(with_noise(seed + 1), with_noise(seed + 2))
    with captum_noise(seed, films.x_NCHW.device):
        sensitivity = sensitivity_max(
            cells_of,
            films.x_NCHW,
            perturb_radius=RADIUS,
            n_perturb_samples=NUM_PERTURBATIONS,
            # As many films at a time as are explained without noise: a method that draws (its
            # generators begin anew at each call) would draw other numbers for each otherwise,
            # and its own luck would pass for the noise's effect.
            max_examples_per_batch=len(films.x_NCHW),
            target=films.targets_N,
        )
    sensitivity_N = sensitivity.double().cpu().numpy()
    return [
        bound_check(
            "repeatability", "Rank correlation of two seeds",
            mean_estimate(repeated, films.groups_N, seed), verdicts.LEAST_REPEATABILITY, "higher",
        ),
        bound_check(
            "sensitivity", "Greatest relative change under weak noise (sensitivity_max)",
            mean_estimate(sensitivity_N, films.groups_N, seed), verdicts.MOST_SENSITIVITY, "lower",
        ),
    ]  # fmt: skip


def _localisation_checks(
    maps_NHW: Tensor, films: CheckedFilms, shared: _Shared, seed: int
) -> list[Check]:
    checks = []
    maps = maps_NHW.float().cpu().numpy()
    center = shared.center_NHW.numpy()
    for place, masks_NHW in (("lung", films.lungs_NHW), ("lesion", films.lesions_NHW)):
        known = masks_NHW.any(axis=(1, 2))
        if not known.any():
            continue
        masks = masks_NHW[known]
        drawn: dict[str, Any] = {"groups_N": films.groups_N[known], "seed": seed}
        even = masks.mean(axis=(1, 2))
        energy = energy_inside(maps[known], masks)
        references = {"even": even, "centre": energy_inside(center[known], masks)}
        hits = peaks_inside(maps[known], masks).astype(np.float64)
        pointing = {"even": even}
        checks += [
            paired_check(
                f"{place}-energy", f"Share of the map inside the {place}", energy, references,
                "higher", decides=False, **drawn,
            ),
            paired_check(
                f"{place}-pointing", f"Share of films whose peak lies inside the {place}", hits,
                pointing, "higher", decides=False, **drawn,
            ),
        ]  # fmt: skip
    return checks


def _infidelity_check(maps_NHW: Tensor, films: CheckedFilms, shared: _Shared, seed: int) -> Check:
    values = faithfulness.infidelity(maps_NHW, shared.masks_NSHW, shared.falls_NS)
    title = "Infidelity under square removal, 0 perfect and 1 no better than no map"
    drawn: dict[str, Any] = {"groups_N": films.groups_N, "seed": seed}
    return paired_check(
        "infidelity", title, values, shared.baseline_infidelity, "lower", decides=False, **drawn
    )
