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
    described = _Described(network)
    pixels_ND: list[Tensor] = []

    def read_pixels() -> Iterator[Tensor]:
        for pixels_NCHW in batches:
            pixels_ND.append(pixel_statistics(pixels_NCHW))
            yield pixels_NCHW

    both_ND = predict_logits(described, read_pixels(), normalisation)
    logits_NC, maps_ND = both_ND.tensor_split([described.num_classes], dim=1)
    features_ND = torch.cat([maps_ND, torch.cat(pixels_ND)], dim=1)
    return logits_NC, cast(NDArray[np.float64], features_ND.double().cpu().numpy())


class _Described(nn.Module):
    """A network that gives what its maps hold behind its logits, for the very films it answers."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.num_classes = 0  # until it has answered
        self.train(network.training)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        convolutions = [part for part in self.network.modules() if isinstance(part, nn.Conv2d)]
        seen: dict[str, Tensor] = {}
        with (
            _kept(convolutions[1], seen, "early"),
            _kept(self.network.last_feature_map, seen, "late"),
        ):
            logits_NC = self.network(x_NCHW)
        self.num_classes = logits_NC.shape[1]
        early_NDhw, late_NDhw = seen["early"], seen["late"]
        early_ND = [early_NDhw.mean((2, 3)), early_NDhw.std((2, 3))]
        return torch.cat([logits_NC, *early_ND, late_NDhw.mean((2, 3))], dim=1)


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
def _kept(module: nn.Module, seen: dict[str, Tensor], name: str) -> Iterator[None]:
    handle = module.register_forward_hook(lambda *call: seen.update({name: call[2]}))
    try:
        yield
    finally:
        handle.remove()
