import pytest
import torch
from torch import nn

from cxr_model.blocks import AveragePool, PostActivationBlock, ResidualTriple


def triple(in_channels: int, out_channels: int, _stride: int = 1) -> nn.Module:
    return ResidualTriple(in_channels, out_channels)


@pytest.mark.parametrize(
    ("kind", "stride"), [(triple, 1), (PostActivationBlock, 1), (PostActivationBlock, 2)]
)
def test_block_gives_the_stated_shape(kind: type[nn.Module], stride: int) -> None:
    y_NDhw = kind(8, 12, stride)(torch.randn(2, 8, 16, 16))
    assert y_NDhw.shape == (2, 12, 16 // stride, 16 // stride)


def test_a_triple_whose_convolutions_are_zero_is_its_shortcut() -> None:
    block = ResidualTriple(8, 8).eval()
    nn.init.zeros_(block.conv.weight)
    x_NCHW = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(x_NCHW), block.act(block.shortcut(x_NCHW)))


@pytest.mark.parametrize("kind", [triple, PostActivationBlock])
def test_no_activation_works_in_place_or_serves_twice(kind: type[nn.Module]) -> None:
    block, calls = kind(4, 4), []
    activations = [m for m in block.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU)]
    for activation in activations:
        assert not activation.inplace
        activation.register_forward_hook(lambda module, *_: calls.append(id(module)))
    block(torch.randn(1, 4, 8, 8))
    assert len(calls) == len(set(calls)) == len(activations)


@pytest.mark.parametrize(("height", "width"), [(14, 7), (6, 6), (2, 9)])
def test_average_pooling_is_torchs(height: int, width: int) -> None:
    x_NCHW = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(AveragePool(7)(x_NCHW), nn.AdaptiveAvgPool2d(7)(x_NCHW))
