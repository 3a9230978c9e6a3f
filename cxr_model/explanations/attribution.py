"""What the network looks at: Captum's Occlusion, Integrated Gradients, Grad-CAM, GradientShap.

A map has the film's height and width, is float32 and signed: positive where a place
speaks for the class. The score explained is the class's logit; the baseline is zero,
the mean grey of the training films, but for GradientShap, whose baselines are films.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import pandas as pd
import torch
from captum.attr import (
    GradientShap,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_model.config import ExplainConfig
from cxr_model.films import films_at_once
from cxr_model.network import Network

Map = NDArray[np.float32]

METHOD_TITLES = {
    "occlusion": "Occlusion",
    "integrated-gradients": "Integrated Gradients",
    "grad-cam": "Grad-CAM",
    "gradient-shap": "GradientShap",
}

NOISE_STD = 0.1
"""Of the noisy copies of a film, in standard deviations of the training films' grey: about
six grey levels of 256, a grain that real films have."""

NOISY_COPIES = 3

_SHAP_SAMPLES = 12


def batch_size(x_NCHW: Tensor) -> int:
    """On a CPU small batches stay in its cache: 16 films were a third faster than 64."""
    return films_at_once(256 if x_NCHW.is_cuda else 16, x_NCHW.shape[-1])


def occlusion_maps(network: nn.Module, x_1CHW: Tensor, *, window_px: int, stride_px: int) -> Tensor:
    """Fall of every class's logit when a grey window covers a place, (num_classes, H, W).

    Zeiler & Fergus 2014, arXiv:1311.2901. Many windows share a forward pass, and one
    sweep serves all classes: Captum keeps an attribution for every output when no target
    is named.
    """
    channels = x_1CHW.shape[1]
    with torch.no_grad():
        maps_KCHW = Occlusion(network).attribute(
            x_1CHW,
            sliding_window_shapes=(channels, window_px, window_px),
            strides=(channels, stride_px, stride_px),
            perturbations_per_eval=batch_size(x_1CHW),
        )
    # A window covers all channels at once, so each channel holds the same map.
    return cast(Tensor, maps_KCHW)[:, 0]


def integrated_gradients_maps(
    network: nn.Module,
    x_NCHW: Tensor,
    targets_N: Tensor,
    *,
    steps: int,
    seed: int,
    copies: int = NOISY_COPIES,
    noise_std: float = NOISE_STD,
) -> tuple[Tensor, Tensor]:
    """Maps (N, H, W), summed over channels, and the convergence delta of each film (N,).

    Sundararajan et al. 2017, arXiv:1703.01365, averaged over noisy copies of the film
    (SmoothGrad, Smilkov et al. 2017, arXiv:1706.03825). The delta is what the map's sum
    lacks of the change of the logit from the baseline, the mean over the copies.
    """
    tunnel = NoiseTunnel(IntegratedGradients(network))
    parts = []
    with captum_noise(seed, x_NCHW.device):
        for x, targets in _split(x_NCHW, targets_N, copies):
            maps, deltas = tunnel.attribute(
                x,
                nt_type="smoothgrad",
                nt_samples=copies,
                stdevs=noise_std,
                target=targets,
                n_steps=steps,
                internal_batch_size=max(batch_size(x), len(x) * copies),
                return_convergence_delta=True,
            )
            parts.append((maps, deltas))
    return _joined(parts)


def gradient_shap_maps(
    network: nn.Module, x_NCHW: Tensor, targets_N: Tensor, baselines_BCHW: Tensor, *, seed: int
) -> tuple[Tensor, Tensor]:
    """Expected gradients from films ``baselines_BCHW`` of all classes: maps and deltas as above.

    Lundberg & Lee 2017, arXiv:1705.07874.
    """
    parts = []
    with captum_noise(seed, x_NCHW.device):
        for x, targets in _split(x_NCHW, targets_N, _SHAP_SAMPLES):
            maps, deltas = GradientShap(network).attribute(
                x,
                baselines_BCHW,
                n_samples=_SHAP_SAMPLES,
                stdevs=NOISE_STD,
                target=targets,
                return_convergence_delta=True,
            )
            parts.append((maps, deltas))
    return _joined(parts)


def _split(x_NCHW: Tensor, targets_N: Tensor, copies: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many films at a time that their noisy copies make one batch."""
    few = max(1, batch_size(x_NCHW) // copies)
    return zip(torch.split(x_NCHW, few), torch.split(targets_N, few), strict=True)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Maps summed over channels, and deltas averaged over each film's copies."""
    maps = [maps_NCHW.detach().sum(dim=1) for maps_NCHW, _ in parts]
    deltas = [delta.float().view(len(map_NHW), -1).mean(dim=1)
              for map_NHW, (_, delta) in zip(maps, parts, strict=True)]  # fmt: skip
    return torch.cat(maps), torch.cat(deltas)


@contextmanager
def captum_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Captum draws from the global generators only: seeded here, and put back as they were."""
    state = np.random.get_state()
    # Of all devices there are it would wake those that other runs use.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


def small_grad_cam_maps(network: Network, x_NCHW: Tensor, targets_N: Tensor) -> Tensor:
    """Grad-CAM at the last feature map's own resolution, non-negative, (N, h, w).

    Selvaraju et al. 2017, arXiv:1610.02391.
    """
    cam = LayerGradCam(network, network.last_feature_map)
    maps = []
    for x, targets in _split(x_NCHW, targets_N, copies=1):
        small_N1hw = cast(Tensor, cam.attribute(x, target=targets, relu_attributions=True))
        maps.append(small_N1hw.detach()[:, 0])
    return torch.cat(maps)


def grad_cam_maps(network: Network, x_NCHW: Tensor, targets_N: Tensor) -> Tensor:
    """The same, enlarged to the film, (N, H, W)."""
    small_N1hw = small_grad_cam_maps(network, x_NCHW, targets_N)[:, None]
    size = tuple(x_NCHW.shape[2:])
    maps_N1HW = LayerAttribution.interpolate(small_N1hw, size, interpolate_mode="bilinear")
    return cast(Tensor, maps_N1HW)[:, 0]


def attribute(
    method: str,
    network: Network,
    x_NCHW: Tensor,
    targets_N: Tensor,
    *,
    config: ExplainConfig,
    baselines_BCHW: Tensor,
    seed: int,
) -> tuple[Tensor, Tensor | None]:
    """Maps (N, H, W) of one class a film, and the convergence deltas (N,) where there are any."""
    if method == "occlusion":
        maps = [
            occlusion_maps(
                network,
                x[None],
                window_px=config.occlusion_window_px,
                stride_px=config.occlusion_stride_px,
            )[target]
            for x, target in zip(x_NCHW, targets_N.tolist(), strict=True)
        ]
        return torch.stack(maps), None
    if method == "integrated-gradients":
        steps = config.integrated_gradients_steps
        return integrated_gradients_maps(network, x_NCHW, targets_N, steps=steps, seed=seed)
    if method == "gradient-shap":
        return gradient_shap_maps(network, x_NCHW, targets_N, baselines_BCHW, seed=seed)
    return grad_cam_maps(network, x_NCHW, targets_N), None


def explain_film(
    network: Network,
    x_1CHW: Tensor,
    targets: Sequence[int],
    config: ExplainConfig,
    baselines_BCHW: Tensor,
) -> dict[tuple[str, int], Map]:
    """One map for each method of ``config`` and each class of ``targets``."""
    maps: dict[tuple[str, int], Tensor] = {}
    chosen_T = torch.tensor(list(targets), device=x_1CHW.device)
    x_TCHW = x_1CHW.expand(len(chosen_T), -1, -1, -1)
    for method in config.methods:
        if method == "occlusion":  # one sweep serves all classes
            window_px, stride_px = config.occlusion_window_px, config.occlusion_stride_px
            maps_KHW = occlusion_maps(network, x_1CHW, window_px=window_px, stride_px=stride_px)
            maps_THW = maps_KHW[chosen_T]
        else:
            maps_THW, _ = attribute(
                method,
                network,
                x_TCHW,
                chosen_T,
                config=config,
                baselines_BCHW=baselines_BCHW,
                seed=config.seed,
            )
        maps |= {(method, target): maps_THW[i] for i, target in enumerate(targets)}
    return {key: value.float().cpu().numpy() for key, value in maps.items()}


def choose_films(predictions: pd.DataFrame, config: ExplainConfig) -> pd.DataFrame:
    """Holdout films to show, with columns ``chosen`` (sample or mistake) and ``probability``.

    The sample is drawn class by class without a look at the prediction, so that the
    gallery shows what is typical; the mistakes are those with the highest probability
    for a wrong class.
    """
    films = predictions[predictions["split"] == "holdout"].copy()
    columns = [name for name in films.columns if name.startswith("probability_")]
    films["probability"] = films[columns].max(axis=1)
    rng = np.random.default_rng(config.seed)
    samples = []
    for _, group in films.groupby("label", sort=True):
        rows = rng.permutation(len(group))[: config.films_per_class]
        samples.append(group.iloc[np.sort(rows)])
    sample = pd.concat(samples).assign(chosen="sample")
    wrong = films[films["predicted"] != films["label"]].drop(index=sample.index, errors="ignore")
    mistakes = wrong.nlargest(config.num_mistakes, "probability").assign(chosen="mistake")
    return pd.concat([sample, mistakes])
