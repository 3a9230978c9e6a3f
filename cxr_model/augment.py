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
    noise_std_N: Tensor | None

    def __getitem__(self, rows: slice) -> "Changes":
        return Changes(**{k: v if v is None else v[rows] for k, v in vars(self).items()})


def draw_changes(num: int, config: AugmentConfig, generator: torch.Generator) -> Changes:
    """Changes for ``num`` films, each by its own draw, on the generator's device."""

    def uniform(largest: float) -> Tensor:
        drawn = torch.rand(num, device=generator.device, generator=generator)
        return (drawn * 2 - 1) * largest

    affine_N23 = None
    if config.rotation_deg or config.scale or config.shift or config.flip:
        angle = uniform(math.radians(config.rotation_deg))
        size = torch.exp(uniform(math.log1p(config.scale)))
        # affine_grid counts from -1 to 1: a share of the side is twice that.
        across, down = uniform(2 * config.shift), uniform(2 * config.shift)
        mirror = uniform(1).sign() if config.flip else torch.ones_like(angle)
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        affine = [cos * mirror, -sin, across, sin * mirror, cos, down]
        affine_N23 = torch.stack(affine, dim=1).view(num, 2, 3)
    return Changes(
        affine_N23=affine_N23,
        exponent_N=torch.exp(uniform(config.gamma)) if config.gamma else None,
        noise_std_N=uniform(config.noise).abs() if config.noise else None,
    )


def augment_batch(x_NCHW: Tensor, changes: Changes, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shift, re-expose and add noise, each film by its own draw.

    Takes and returns float films in [0, 1] (noise may leave that range by a little);
    ``generator`` draws the noise and lives on the films' device.
    """
    if changes.affine_N23 is not None:
        grid_NHW2 = F.affine_grid(changes.affine_N23, list(x_NCHW.shape), align_corners=False)
        x_NCHW = F.grid_sample(x_NCHW, grid_NHW2, padding_mode="border", align_corners=False)
    if changes.exponent_N is not None:
        x_NCHW = x_NCHW.clamp_min(1e-4).pow(changes.exponent_N.view(-1, 1, 1, 1))
    if changes.noise_std_N is not None:
        noise_NCHW = torch.randn(x_NCHW.shape, device=x_NCHW.device, generator=generator)
        x_NCHW = x_NCHW + changes.noise_std_N.view(-1, 1, 1, 1) * noise_NCHW
    return x_NCHW
