"""Whether a map hangs on what the network learnt: its weights are drawn anew, head first.

Adebayo et al. 2018, arXiv:1810.03292 (cascading parameter randomisation). A map that stays
as it was shows the film, not the network.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor, nn

from cxr_model.explanations.faithfulness import cells
from cxr_model.network import init_weights

Array = NDArray[np.float64]

_MOST_PARTS = 8
SIDE = 24  # maps are compared as means over so many cells a side: grain is no agreement


def cascade(network: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """A copy of ``network``, in which one more part is drawn anew at each step, head first.

    Yields the part's name and the copy, always the same one; in the end it has no learnt weight
    left. Parts are the
    network's children, with ``stages`` and ``body`` opened; above eight, neighbours go together.
    """
    randomised = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    parts = _parts(randomised)[::-1]
    for places in np.array_split(np.arange(len(parts)), min(len(parts), _MOST_PARTS)):
        for place in places:
            _draw_anew(parts[place][1], generator)
        yield parts[places[-1]][0], randomised


def _draw_anew(part: nn.Module, generator: torch.Generator) -> None:
    device = next(part.parameters()).device
    part.cpu()  # so that every device draws the same weights
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()
    init_weights(part, generator)
    part.to(device)


def _parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Parts with weights in the order they run."""
    parts: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        opened = [(f"{name}.{inner}", module) for inner, module in child.named_children()]
        parts += opened if name in ("stages", "body") else [(name, child)]
    return [(name, part) for name, part in parts if any(True for _ in part.parameters())]


def spearman(first_NHW: Tensor, second_NHW: Tensor) -> Array:
    """Rank correlation of each pair of maps over cells, (N,); 0 where one of them is flat."""
    pairs = zip(_flat_cells(first_NHW), _flat_cells(second_NHW), strict=True)
    return np.array([0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else spearmanr(a, b)[0]
                     for a, b in pairs])  # fmt: skip


def similarity(first_NHW: Tensor, second_NHW: Tensor) -> Array:
    """SSIM of each pair of maps, (N,): Wang et al. 2004 with a Gaussian window of 1.5 cells.

    Each map is first divided by its greatest absolute value, as strength has no unit; the
    constants are those of the paper for a range of 2. Two flat maps are alike.
    """
    first, second = (_scaled_cells(maps) for maps in (first_NHW, second_NHW))
    smooth = (0, 1.5, 1.5)
    mean_a, mean_b = gaussian_filter(first, smooth), gaussian_filter(second, smooth)
    var_a = gaussian_filter(first**2, smooth) - mean_a**2
    var_b = gaussian_filter(second**2, smooth) - mean_b**2
    both = gaussian_filter(first * second, smooth) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    likeness /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return np.asarray(likeness.mean(axis=(1, 2)))


def _flat_cells(maps_NHW: Tensor) -> Array:
    return np.asarray(cells(maps_NHW, SIDE).flatten(1).double().cpu().numpy())


def _scaled_cells(maps_NHW: Tensor) -> Array:
    values = _flat_cells(maps_NHW).reshape(-1, SIDE, SIDE)
    peaks = np.abs(values).max(axis=(1, 2), keepdims=True)
    return np.asarray(values / np.where(peaks > 0, peaks, 1))
