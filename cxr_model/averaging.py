"""The averaged weights that are validated and kept, and batch norm's statistics for them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn


def averaging_decay(ema_decay: float, num_steps_done: int) -> float:
    """How much of the averaged weights stays after a step.

    A constant decay would keep the random start for hundreds of steps and stop a short run
    on nonsense: it warms up instead.
    """
    return min(ema_decay, (1 + num_steps_done) / (10 + num_steps_done))


@torch.no_grad()
def average_weights(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move ``averaged`` towards ``network``; batch norm's statistics are `recalibrate`'s."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def recalibrate(averaged: nn.Module, batches: Iterable[Tensor]) -> None:
    """Take batch norm's statistics anew, over ``batches`` of normalised films as they are.

    Those gathered in training are of other weights (Izmailov et al. 2018, arXiv:1803.05407,
    section 3.2) and of changed films, which interpolation has smoothed: under them clean
    films look grainier than any seen in training.
    """
    was_training = averaged.training
    momenta = {
        module: module.momentum for module in averaged.modules() if isinstance(module, _BatchNorm)
    }
    try:
        update_bn(batches, averaged)
    finally:  # it leaves both as they are where memory runs out
        averaged.train(was_training)
        for module, momentum in momenta.items():
            module.momentum = momentum
