"""Random changes of whole batches on the training device; shape suffixes as in `blocks`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_model.config import AugmentConfig


def _uniform(num: int, largest: float, like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(num, device=like.device, generator=generator) * 2 - 1) * largest


def _random_affine(x_NCHW: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    num = x_NCHW.shape[0]
    angle = _uniform(num, math.radians(config.rotation_deg), x_NCHW, generator)
    size = torch.exp(_uniform(num, math.log1p(config.scale), x_NCHW, generator))
    # affine_grid counts from -1 to 1: a share of the side is twice that.
    shift_N2 = _uniform(num * 2, 2 * config.shift, x_NCHW, generator).view(num, 2, 1)
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    rotation_N22 = torch.stack([cos, -sin, sin, cos], dim=1).view(num, 2, 2)
    if config.flip:
        sign = torch.rand(num, device=x_NCHW.device, generator=generator).sub(0.5).sign()
        rotation_N22 = rotation_N22 * torch.stack([sign, torch.ones_like(sign)], 1).view(num, 1, 2)
    grid_NHW2 = F.affine_grid(
        torch.cat([rotation_N22, shift_N2], dim=2), list(x_NCHW.shape), align_corners=False
    )
    return F.grid_sample(x_NCHW, grid_NHW2, padding_mode="border", align_corners=False)


def augment_batch(x_NCHW: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shift, re-expose and add noise, each film by its own draw.

    Takes and returns float films in [0, 1] (noise may leave that range by a little);
    ``generator`` lives on the films' device.
    """
    num = x_NCHW.shape[0]
    if config.rotation_deg or config.scale or config.shift or config.flip:
        x_NCHW = _random_affine(x_NCHW, config, generator)
    if config.gamma:
        exponent_N = torch.exp(_uniform(num, config.gamma, x_NCHW, generator))
        x_NCHW = x_NCHW.clamp_min(1e-4).pow(exponent_N.view(num, 1, 1, 1))
    if config.noise:
        std_N = torch.rand(num, device=x_NCHW.device, generator=generator) * config.noise
        noise_NCHW = torch.randn(x_NCHW.shape, device=x_NCHW.device, generator=generator)
        x_NCHW = x_NCHW + std_N.view(num, 1, 1, 1) * noise_NCHW
    return x_NCHW
