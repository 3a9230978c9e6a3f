"""What the network looks at: Captum's Occlusion, Integrated Gradients and Grad-CAM.

A map has the film's height and width, is float32 and signed: positive where a place
speaks for the class. The score explained is the class's logit; the baseline is zero,
the mean grey of the training films.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from numpy.typing import NDArray
from torch import Tensor

from cxr_model.config import ExplainConfig
from cxr_model.network import Network

Map = NDArray[np.float32]

_BATCH = 64


def occlusion_maps(network: Network, x_1CHW: Tensor, *, window_px: int, stride_px: int) -> Tensor:
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
            perturbations_per_eval=_BATCH,
        )
    # A window covers all channels at once, so each channel holds the same map.
    return cast(Tensor, maps_KCHW)[:, 0]


def integrated_gradients_map(network: Network, x_1CHW: Tensor, target: int, steps: int) -> Tensor:
    """Sundararajan et al. 2017, arXiv:1703.01365; summed over channels, (H, W)."""
    map_1CHW = IntegratedGradients(network).attribute(
        x_1CHW, target=target, n_steps=steps, internal_batch_size=_BATCH
    )
    return cast(Tensor, map_1CHW).detach()[0].sum(dim=0)


def grad_cam_maps(network: Network, x_NCHW: Tensor, targets_N: Tensor) -> Tensor:
    """Grad-CAM of the last feature map, enlarged to the film, non-negative, (N, H, W).

    Selvaraju et al. 2017, arXiv:1610.02391.
    """
    cam = LayerGradCam(network, network.last_feature_map)
    maps = []
    for x, targets in zip(torch.split(x_NCHW, _BATCH), torch.split(targets_N, _BATCH), strict=True):
        small_N1hw = cast(Tensor, cam.attribute(x, target=targets, relu_attributions=True))
        maps.append(
            LayerAttribution.interpolate(
                small_N1hw.detach(), tuple(x.shape[2:]), interpolate_mode="bilinear"
            )[:, 0]
        )
    return torch.cat(maps)


def explain_film(
    network: Network, x_1CHW: Tensor, targets: Sequence[int], config: ExplainConfig
) -> dict[tuple[str, int], Map]:
    """One map for each method of ``config`` and each class of ``targets``."""
    maps: dict[tuple[str, int], Tensor] = {}
    if "occlusion" in config.methods:
        occlusion_KHW = occlusion_maps(
            network,
            x_1CHW,
            window_px=config.occlusion_window_px,
            stride_px=config.occlusion_stride_px,
        )
        maps |= {("occlusion", target): occlusion_KHW[target] for target in targets}
    if "integrated-gradients" in config.methods:
        for target in targets:
            maps["integrated-gradients", target] = integrated_gradients_map(
                network, x_1CHW, target, config.integrated_gradients_steps
            )
    if "grad-cam" in config.methods:
        chosen = torch.tensor(list(targets), device=x_1CHW.device)
        cams = grad_cam_maps(network, x_1CHW.expand(len(chosen), -1, -1, -1), chosen)
        maps |= {("grad-cam", target): cams[i] for i, target in enumerate(targets)}
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


def peaks_inside(maps_NHW: NDArray[np.float32], masks_NHW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pointing game: for each film, whether its map's highest point lies in its mask.

    Zhang et al. 2018, arXiv:1608.00507. A map that is zero everywhere points nowhere.
    """
    flat = maps_NHW.reshape(len(maps_NHW), -1)
    peaks = flat.argmax(axis=1)
    inside = masks_NHW.reshape(len(masks_NHW), -1)[np.arange(len(flat)), peaks]
    return cast(NDArray[np.bool_], inside & (flat.max(axis=1) > 0))
