"""Random changes of whole batches on the training device; shape suffixes as in `blocks`."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_model.config import AugmentConfig


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is to be done to each film of a batch; ``None``: nothing of that kind."""

    affine_N23: Tensor | None
    exponent_N: Tensor | None
    smoothing_N: Tensor | None
    noise_NCHW: Tensor | None

    def __getitem__(self, rows: slice) -> "Changes":
        return Changes(**{k: v if v is None else v[rows] for k, v in vars(self).items()})


def draw_changes(
    shape: tuple[int, ...], config: AugmentConfig, generator: torch.Generator
) -> Changes:
    """Changes for films of ``shape`` (N, C, H, W), each by its own draw, on its own device.

    The grain of every second film is left as it is: see `AugmentConfig.noise`.
    """
    num = shape[0]

    def uniform(largest: float) -> Tensor:
        drawn = torch.rand(num, device=generator.device, generator=generator)
        return (drawn * 2 - 1) * largest

    affine_N23 = None
    if config.rotation_deg or config.scale or config.shift or config.flip:
        angle = uniform(math.radians(config.rotation_deg))
        size = torch.exp(uniform(math.log1p(config.scale)))
        # affine_grid counts from -1 to 1: a share of the side is twice that.
        across, down = uniform(2 * config.shift), uniform(2 * config.shift)
        mirror = torch.ones_like(angle)
        if config.flip:
            mirror = torch.where(uniform(1) < 0, -mirror, mirror)
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        affine = [cos * mirror, -sin, across, sin * mirror, cos, down]
        affine_N23 = torch.stack(affine, dim=1).view(num, 2, 3)
    exponent_N = torch.exp(uniform(config.gamma)) if config.gamma else None
    chosen_N = (uniform(1) > 0).float()
    noise_NCHW = None
    if config.noise:
        std_N = chosen_N * uniform(config.noise).abs()
        noise_NCHW = torch.randn(shape, device=generator.device, generator=generator)
        noise_NCHW = std_N.view(-1, 1, 1, 1) * noise_NCHW
    return Changes(
        affine_N23=affine_N23,
        exponent_N=exponent_N,
        smoothing_N=chosen_N * uniform(config.smoothing).abs() if config.smoothing else None,
        noise_NCHW=noise_NCHW,
    )


def augment_batch(x_NCHW: Tensor, changes: Changes) -> Tensor:
    """Rotate, scale, shift, re-expose, smooth and add noise, each film by its own draw.

    Takes and returns float films in [0, 1] (noise may leave that range by a little).
    """
    if changes.affine_N23 is not None:
        grid_NHW2 = F.affine_grid(changes.affine_N23, list(x_NCHW.shape), align_corners=False)
        x_NCHW = F.grid_sample(x_NCHW, grid_NHW2, padding_mode="border", align_corners=False)
    if changes.exponent_N is not None:
        x_NCHW = x_NCHW.clamp_min(1e-4).pow(changes.exponent_N.view(-1, 1, 1, 1))
    if changes.smoothing_N is not None:
        share_N111 = changes.smoothing_N.view(-1, 1, 1, 1)
        x_NCHW = torch.lerp(x_NCHW, _smooth(x_NCHW), share_N111)
    if changes.noise_NCHW is not None:
        x_NCHW = x_NCHW + changes.noise_NCHW
    return x_NCHW


def _smooth(x_NCHW: Tensor) -> Tensor:
    """Binomial weights 1 4 6 4 1, down and across: as a Gaussian of one pixel's deviation."""
    x_NCHW = F.pad(x_NCHW, (2, 2, 2, 2), mode="replicate")
    for side in (2, 3):
        for _ in range(4):  # four sums of neighbours
            length = x_NCHW.shape[side] - 1
            x_NCHW = x_NCHW.narrow(side, 0, length) + x_NCHW.narrow(side, 1, length)
    return x_NCHW / 256
