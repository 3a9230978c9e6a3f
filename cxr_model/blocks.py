"""The parts the networks are built from.

Shape suffixes: N films, C channels in, D channels out, H and W pixels in, h and w pixels
out. Every ReLU is a module of its own and none works in place: Captum hooks each
activation once and reads it after the forward pass.
"""

from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the size (or halves it), without bias: a norm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class SqueezeExcitation(nn.Module):
    """Rescale channels by a gate in (0, 1) read from their means, ``x_NCHW -> y_NCHW``.

    Hu et al. 2018, arXiv:1709.01507.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.act = nn.ReLU()
        self.excite = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        gate_NC11: Tensor = self.gate(self.excite(self.act(self.squeeze(self.pool(x_NCHW)))))
        return x_NCHW * gate_NC11


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Average pooling before the 1x1 convolution sees every pixel, where a strided one
    would drop three in four (ResNet-D, He et al. 2019, arXiv:1812.01187)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    parts: list[nn.Module] = [nn.AvgPool2d(stride)] if stride > 1 else []
    return nn.Sequential(*parts, nn.Conv2d(in_channels, out_channels, 1, bias=False))


class ResidualBlock(nn.Module):
    """Pre-activation residual block, ``x_NCHW -> y_NDhw`` (He et al. 2016, arXiv:1603.05027).

    The last convolution starts at zero (`cxr_model.network.init_weights`), so a fresh
    block returns its shortcut and a deep net starts out as a shallow one.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()
        self.conv2 = conv3x3(out_channels, out_channels)
        self.attention = SqueezeExcitation(out_channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NDhw: Tensor = self.conv1(self.act1(self.norm1(x_NCHW)))
        y_NDhw = self.attention(self.conv2(self.act2(self.norm2(y_NDhw))))
        shortcut_NDhw: Tensor = self.shortcut(x_NCHW)
        return shortcut_NDhw + y_NDhw


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
