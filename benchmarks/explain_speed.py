"""Explanations beside Captum called with its defaults, and beside the plain forward pass.

- ``occlusion, here``, ``occlusion, Captum's defaults``: films per second, a map each;
- ``grad-cam, here``, ``grad-cam, Captum film by film``;
- ``forward``: films per second through the network without gradients, in batches of 64. A
  window of Occlusion costs a film's forward pass, so ``occlusion_of_forward`` is windows
  per second over it.
"""

from typing import Any

import torch
from captum.attr import LayerGradCam, Occlusion

from benchmarks.rounds import Contestant, films_per_second, result
from cxr_model.config import ExplainConfig
from cxr_model.explanations.attribution import batch_size, grad_cam_maps, occlusion_maps
from cxr_model.network import Network

_FORWARD_FILMS = 256
_CAM_FILMS = 32


def measure_explanations(
    network: Network, x_NCHW: torch.Tensor, config: ExplainConfig, *, rounds: int
) -> dict[str, Any]:
    """Rates and ratios on normalised films ``x_NCHW``, at least one, on the network's device."""
    window, stride = config.occlusion_window_px, config.occlusion_stride_px
    side = x_NCHW.shape[2]
    per_side = -(-(side - window) // stride) + 1
    some_NCHW = x_NCHW[torch.arange(_FORWARD_FILMS) % len(x_NCHW)]
    few_NCHW = some_NCHW[:_CAM_FILMS]
    targets_N = torch.zeros(_CAM_FILMS, dtype=torch.int64, device=x_NCHW.device)
    defaults = Occlusion(network)
    cam = LayerGradCam(network, network.last_feature_map)

    def forward() -> int:
        with torch.inference_mode():
            for batch in torch.split(some_NCHW, batch_size(some_NCHW)):
                network(batch)
        return len(some_NCHW)

    def occlusion() -> int:
        occlusion_maps(network, x_NCHW[:1], window_px=window, stride_px=stride)
        return 1

    def occlusion_by_default() -> int:
        shape, strides = (x_NCHW.shape[1], window, window), (x_NCHW.shape[1], stride, stride)
        defaults.attribute(x_NCHW[:1], shape, strides=strides, target=0)
        return 1

    def grad_cam() -> int:
        grad_cam_maps(network, few_NCHW, targets_N)
        return len(few_NCHW)

    def grad_cam_by_film() -> int:
        for i in range(len(few_NCHW)):
            cam.attribute(few_NCHW[i : i + 1], target=0)
        return len(few_NCHW)

    contestants: dict[str, Contestant] = {
        "forward": forward,
        "occlusion, here": occlusion,
        "occlusion, Captum's defaults": occlusion_by_default,
        "grad-cam, here": grad_cam,
        "grad-cam, Captum film by film": grad_cam_by_film,
    }
    rates = films_per_second(contestants, rounds)
    ratios = {
        "occlusion_of_forward": rates["occlusion, here"] * per_side**2 / rates["forward"],
        "occlusion_vs_defaults": rates["occlusion, here"] / rates["occlusion, Captum's defaults"],
        "grad_cam_vs_film_by_film": rates["grad-cam, here"]
        / rates["grad-cam, Captum film by film"],
    }
    about = {"size_px": side, "windows_per_film": per_side**2}
    return result(rates, ratios, x_NCHW.device, **about)
