"""What a film looks like to the trained network and as bare pixels, in some hundred numbers.

Shape suffixes as in `cxr_model.blocks`, D features.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_model.films import Normalisation, predict_logits
from cxr_model.network import Network

_THUMBNAIL_PX = 8
_REGIONS = 4
"""Contrast and grain are told for each of 4 x 4 regions."""
_LEAST_CONTRAST, _LEAST_GRAIN = 1e-3, 1e-4  # of the grey range: a blank film has finite logarithms


def describe_films(
    network: Network, batches: Iterable[Tensor], normalisation: Normalisation
) -> tuple[Tensor, NDArray[np.float64]]:
    """Logits (N, C) as of `predict_logits` and features (N, D) of uint8 batches, in one pass.

    The features are the mean and the spread of each channel of the second convolution, the
    mean of each channel of the last feature map, and `pixel_statistics`.
    """
    early_ND: list[Tensor] = []
    late_ND: list[Tensor] = []
    pixels_ND: list[Tensor] = []

    def read_early(_: nn.Module, __: object, map_NDhw: Tensor) -> None:
        early_ND.append(torch.cat([map_NDhw.mean((2, 3)), map_NDhw.std((2, 3))], dim=1))

    def read_late(_: nn.Module, __: object, map_NDhw: Tensor) -> None:
        late_ND.append(map_NDhw.mean((2, 3)))

    def read_pixels() -> Iterator[Tensor]:
        for pixels_NCHW in batches:
            pixels_ND.append(pixel_statistics(pixels_NCHW))
            yield pixels_NCHW

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    with (
        _hooked(convolutions[1], read_early),
        _hooked(network.last_feature_map, read_late),
    ):
        logits_NC = predict_logits(network, read_pixels(), normalisation)
    parts = [torch.cat(part_ND) for part_ND in (early_ND, late_ND, pixels_ND)]
    return logits_NC, cast(NDArray[np.float64], torch.cat(parts, dim=1).double().cpu().numpy())


def pixel_statistics(pixels_NCHW: Tensor) -> Tensor:
    """Of uint8 films, (N, 96): an 8 x 8 thumbnail, and contrast and grain of 4 x 4 regions.

    Contrast is the logarithm of the grey levels' standard deviation, grain that of the mean
    distance between a pixel and its neighbourhood of 3 x 3.
    """
    grey_N1HW = pixels_NCHW.float().mean(dim=1, keepdim=True) / 255
    mean_N1hw = F.adaptive_avg_pool2d(grey_N1HW, _REGIONS)
    variance_N1hw = F.adaptive_avg_pool2d(grey_N1HW.square(), _REGIONS) - mean_N1hw.square()
    smooth_N1HW = F.avg_pool2d(grey_N1HW, 3, stride=1, padding=1, count_include_pad=False)
    grain_N1hw = F.adaptive_avg_pool2d((grey_N1HW - smooth_N1HW).abs(), _REGIONS)
    statistics = (
        F.adaptive_avg_pool2d(grey_N1HW, _THUMBNAIL_PX),
        (variance_N1hw.clamp_min(0).sqrt() + _LEAST_CONTRAST).log(),
        (grain_N1hw + _LEAST_GRAIN).log(),
    )
    return torch.cat([part.flatten(1) for part in statistics], dim=1)


@contextmanager
def _hooked(module: nn.Module, hook: object) -> Iterator[None]:
    handle = module.register_forward_hook(hook)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
