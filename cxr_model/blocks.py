"""The parts the networks are built from.

Shape suffixes: N films, C channels in, D channels out, H and W pixels in, h and w pixels
out. Every activation is a module of its own and none works in place: Captum hooks each
one once and reads it after the forward pass.
"""

import torch
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the size (or halves it), without bias: a norm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class ConvUnit(nn.Sequential):
    """Convolution that keeps the film's size, batch norm, leaky ReLU (slope 0.1)."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(0.1),
        )


class ResidualTriple(nn.Module):
    """Wide, narrow, wide again, and a shortcut: ``x_NCHW -> y_NDHW``.

    The triple of 3x3, 1x1 and 3x3 convolutions is Darknet's (Redmon & Farhadi 2017,
    arXiv:1612.08242); the projected shortcut around it is that of He et al. 2015,
    arXiv:1512.03385.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        narrow = out_channels // 2
        self.wide = ConvUnit(in_channels, out_channels, 3)
        self.narrow = ConvUnit(out_channels, narrow, 1)
        self.conv = conv3x3(narrow, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NDHW: Tensor = self.norm(self.conv(self.narrow(self.wide(x_NCHW))))
        out: Tensor = self.act(y_NDHW + self.shortcut(x_NCHW))
        return out


class AveragePool(nn.Module):
    """torch's ``AdaptiveAvgPool2d``, ``x_NCHW -> y_NCss`` with ``size`` for s, as two products.

    Its gradient on a GPU repeats itself to the bit, which torch's own does not.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x_NCHW: Tensor) -> Tensor:
        down_sH, across_sW = (self._shares(side, x_NCHW) for side in x_NCHW.shape[2:])
        y_NCss: Tensor = down_sH @ x_NCHW @ across_sW.T
        return y_NCss

    def _shares(self, side: int, like: Tensor) -> Tensor:
        cells_s1 = torch.arange(self.size, device=like.device)[:, None]
        first_s1 = cells_s1 * side // self.size
        end_s1 = ((cells_s1 + 1) * side + self.size - 1) // self.size
        places_L = torch.arange(side, device=like.device)
        inside_sL = (places_L >= first_s1) & (places_L < end_s1)
        return inside_sL.to(like.dtype) / (end_s1 - first_s1)


class PostActivationBlock(nn.Module):
    """The residual block of 2015, ``x_NCHW -> y_NDhw`` (He et al. 2015, arXiv:1512.03385).

    The seed's network is built from it; its output is non-negative.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = conv3x3(out_channels, out_channels)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.act2 = nn.ReLU()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NDhw: Tensor = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x_NCHW)))))
        out: Tensor = self.act2(y_NDhw + self.shortcut(x_NCHW))
        return out
