"""Whether a map names the places that the network's answer hangs on.

Maps are compared on a grid of square cells, not pixel by pixel: single pixels taken out at
random destroy a film's texture, which would make a random order look faithful.

Shape suffixes: N films, S steps or samples, G cells a side.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cxr_model.explanations.attribution import batch_size

Array = NDArray[np.float64]
Model = Callable[[Tensor], Tensor]

GRID = 12  # cells a side: 16 px at 192 px, as fine as the network's last feature map
STEPS = 10  # equal shares of the cells put in or taken out


def cells(maps_NHW: Tensor, side: int = GRID) -> Tensor:
    """The maps' means over ``side`` x ``side`` cells, (N, side, side)."""
    return F.adaptive_avg_pool2d(maps_NHW[:, None].float(), side)[:, 0]


def center_prior(num_films: int, size_px: int) -> Tensor:
    """A map that knows only that films have a middle: a Gaussian of a quarter of the side."""
    line = (torch.arange(size_px) + 0.5) / size_px - 0.5
    squares = line[:, None] ** 2 + line[None] ** 2
    return torch.exp(-squares / (2 * 0.25**2)).expand(num_films, -1, -1)


def random_maps(num_films: int, size_px: int, generator: torch.Generator) -> Tensor:
    """Cells in an order drawn anew for each film, (N, H, W)."""
    drawn = torch.rand(num_films, 1, GRID, GRID, generator=generator)
    return F.interpolate(drawn, size=(size_px, size_px), mode="nearest")[:, 0]


def removal_curves(
    model: Model, x_NCHW: Tensor, targets_N: Tensor, maps_NHW: Tensor
) -> tuple[Array, Array]:
    """Probability of the class as cells come in, and as they go, strongest first: (N, S + 1) each.

    Insertion and deletion of Petsiuk et al. 2018 (RISE, arXiv:1806.07421); what is not there
    is the film blurred by a twelfth of its side, so that no hard new edges or grey levels
    come in.
    """
    blurred = blur(x_NCHW)
    order = cells(maps_NHW).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank_NGG = order.argsort(dim=1).view(-1, 1, GRID, GRID).float().to(x_NCHW.device)
    rank_N1HW = F.interpolate(rank_NGG, size=x_NCHW.shape[2:], mode="nearest")
    inserted: list[Array] = []
    deleted: list[Array] = []
    for step in range(STEPS + 1):
        strongest = rank_N1HW < step * GRID**2 / STEPS
        for curve, kept in ((inserted, strongest), (deleted, ~strongest)):
            films = torch.where(kept, x_NCHW, blurred)
            curve.append(class_scores(model, films, targets_N, probabilities=True))
    return np.stack(inserted, axis=1), np.stack(deleted, axis=1)


def curve_area(curves_NS: Array) -> Array:
    """Area under each curve over the share of cells, 0 to 1."""
    return np.asarray(np.trapezoid(curves_NS, dx=1 / (curves_NS.shape[1] - 1), axis=1))


def mean_curves(inserted_NS: Array, deleted_NS: Array) -> dict[str, list[float]]:
    """The films' mean of both `removal_curves`, and the share of the cells at each step."""
    share = np.linspace(0, 1, inserted_NS.shape[1])
    curves = {
        "share": share, "insertion": inserted_NS.mean(axis=0), "deletion": deleted_NS.mean(axis=0)
    }  # fmt: skip
    return {name: values.round(5).tolist() for name, values in curves.items()}


def blur(x_NCHW: Tensor) -> Tensor:
    # Here: torchvision brings torch's compiler with it, a quarter of what a flow's process loads.
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = x_NCHW.shape[-1] / 12
    kernel = 2 * round(1.5 * sigma) + 1  # within the side, which reflection needs
    return cast(Tensor, gaussian_blur(x_NCHW, [kernel, kernel], [sigma, sigma]))


def class_scores(
    model: Model, x_NCHW: Tensor, targets_N: Tensor, *, probabilities: bool = False
) -> Array:
    """Each film's logit, or probability, of its class, (N,)."""
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in torch.split(x_NCHW, batch_size(x_NCHW))])
    scores = logits.float().softmax(dim=1) if probabilities else logits.float()
    chosen = scores.gather(1, targets_N[:, None])[:, 0]
    return np.asarray(chosen.double().cpu().numpy())


def square_masks(
    num_films: int, size_px: int, samples: int, side_px: int, generator: torch.Generator
) -> Tensor:
    """Random squares, bool (N, S, H, W)."""
    corners = torch.randint(0, size_px - side_px + 1, (num_films, samples, 2), generator=generator)
    line = torch.arange(size_px)
    inside = (line >= corners[..., None]) & (line < corners[..., None] + side_px)
    return inside[:, :, 0, :, None] & inside[:, :, 1, None, :]


def falls(model: Model, x_NCHW: Tensor, targets_N: Tensor, masks_NSHW: Tensor) -> Array:
    """How far the logit falls with each square of the film set to zero, (N, S)."""
    samples = masks_NSHW.shape[1]
    covered = x_NCHW[:, None] * ~masks_NSHW[:, :, None].to(x_NCHW.device)
    targets = targets_N.repeat_interleave(samples)
    after = class_scores(model, covered.flatten(0, 1), targets).reshape(-1, samples)
    return np.asarray(class_scores(model, x_NCHW, targets_N)[:, None] - after)


def infidelity(maps_NHW: Tensor, masks_NSHW: Tensor, falls_NS: Array) -> Array:
    """Share of the falls' square that the map's sums over the squares leave unexplained, (N,).

    Yeh et al. 2019 (arXiv:1901.09392) with square removal, at the map's best scale, over the
    infidelity of an empty map: 0 is perfect, 1 no better than none. It is Captum's
    ``infidelity(normalize=True)`` with the forward passes shared by all methods; but a scale
    below 0, which makes a map of the opposite perfect, is none.
    """
    sums_NS = torch.einsum("nhw,nshw->ns", maps_NHW.cpu().double(), masks_NSHW.double()).numpy()
    squares = (sums_NS**2).sum(axis=1)
    scale = (sums_NS * falls_NS).sum(axis=1).clip(min=0) / np.where(squares > 0, squares, 1)
    left = ((scale[:, None] * sums_NS - falls_NS) ** 2).sum(axis=1)
    total = (falls_NS**2).sum(axis=1)
    return np.asarray(np.where(total > 0, left / np.where(total > 0, total, 1), 1.0))
