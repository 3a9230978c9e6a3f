"""The optimiser, and the course of its rate and of the films' size, functions of the step alone."""

import math
from typing import Any

import torch
from torch import nn

from cxr_model.config import TrainingConfig

_WARM_UP = 0.25
"""Share of the steps in which ``one-cycle`` climbs to its peak."""


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
    # Decay shrinks filters; norms and biases have no scale to shrink.
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def one_cycle(step: float, num_steps: int) -> float:
    """Share of the peak rate at ``step``: a cosine up from 1/25, a cosine down to almost nothing.

    Smith & Topin 2018, arXiv:1708.07120; unlike torch's own, for runs of any length.
    """
    top = _WARM_UP * num_steps
    if step < top:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / top)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (step - top) / (num_steps - top))) / 2


def learning_rate(config: TrainingConfig, step: int, num_steps: int) -> float:
    """The rate of step number ``step``, counted from 0."""
    share = one_cycle(step, num_steps) if config.schedule == "one-cycle" else 1.0
    return config.learning_rate * share


def training_size_px(epoch: int, num_epochs: int, size_px: int) -> int:
    """The side that films are trained at in epoch number ``epoch``, counted from 0.

    Progressive resizing (Howard 2018; Tan & Le 2021, arXiv:2104.00298): coarse films teach
    early epochs as much at a quarter of the cost. The last quarter of the epochs, and the
    last one at least, sees the full size.
    """
    num_left = num_epochs - epoch
    if num_left <= math.ceil(num_epochs / 4):
        return size_px
    return size_px * 3 // 4 if num_left <= math.ceil(num_epochs / 2) else size_px // 2
