import pytest
import torch

from cxr_model.blocks import PostActivationBlock, ResidualBlock, SqueezeExcitation
from cxr_model.network import init_weights


def _initialised(module: torch.nn.Module) -> torch.nn.Module:
    init_weights(module, torch.Generator().manual_seed(0))
    return module


def test_fresh_block_is_the_identity() -> None:
    block = _initialised(ResidualBlock(8, 8))
    x_NCHW = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(x_NCHW), x_NCHW)


@pytest.mark.parametrize("kind", [ResidualBlock, PostActivationBlock])
@pytest.mark.parametrize("stride", [1, 2])
def test_block_gives_the_stated_shape(kind: type[torch.nn.Module], stride: int) -> None:
    y_NDhw = kind(8, 12, stride)(torch.randn(2, 8, 16, 16))
    assert y_NDhw.shape == (2, 12, 16 // stride, 16 // stride)


def test_strided_shortcut_sees_every_pixel() -> None:
    block = _initialised(ResidualBlock(1, 1, stride=2))
    x_NCHW = torch.zeros(1, 1, 4, 4, requires_grad=True)
    block.eval()(x_NCHW).sum().backward()
    assert x_NCHW.grad is not None
    assert (x_NCHW.grad != 0).all()


def test_squeeze_excitation_only_rescales_channels() -> None:
    x_NCHW = torch.rand(2, 16, 5, 5) + 0.1
    ratio = SqueezeExcitation(16)(x_NCHW) / x_NCHW
    assert ((ratio > 0) & (ratio < 1)).all()
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))


@pytest.mark.parametrize("kind", [ResidualBlock, PostActivationBlock])
def test_no_activation_works_in_place_or_serves_twice(kind: type[torch.nn.Module]) -> None:
    block, calls = kind(4, 4), []
    activations = [m for m in block.modules() if isinstance(m, torch.nn.ReLU)]
    for activation in activations:
        assert not activation.inplace
        activation.register_forward_hook(lambda module, *_: calls.append(id(module)))
    block(torch.randn(1, 4, 8, 8))
    assert len(calls) == len(set(calls)) == len(activations)
