"""The checks of explanations on a run's own network and holdout."""

from functools import partial
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cxr_model.config import ExplainConfig
from cxr_model.explanations import verdicts
from cxr_model.explanations.attribution import (
    METHOD_TITLES,
    attribute,
    integrated_gradients_maps,
    occlusion_maps,
)
from cxr_model.explanations.checks import Explain, Method
from cxr_model.network import Network

_QUICK_STEPS, _QUICK_COPIES = 8, 2


def run_methods(config: ExplainConfig, baselines_BCHW: Tensor) -> dict[str, Method]:
    """The methods of ``config`` as `check_methods` takes them."""
    quick: dict[str, Explain] = {
        "occlusion": partial(_coarse_occlusion, config.occlusion_window_px),
        "integrated-gradients": _quick_integrated_gradients,
    }
    methods: dict[str, Method] = {}
    for name in config.methods:
        sampled = name == "gradient-shap"
        methods[name] = Method(
            title=METHOD_TITLES[name],
            explain=partial(_explain, name, config, baselines_BCHW),
            quick=quick.get(name),
            baselines_BCHW=baselines_BCHW if sampled else None,
            most_delta=verdicts.MOST_SAMPLED_DELTA if sampled else verdicts.MOST_DELTA,
        )
    return methods


def choose_checked(predictions: pd.DataFrame, config: ExplainConfig) -> pd.DataFrame:
    """``config.checked_films`` holdout films, evenly from the classes as far as they go."""
    films = predictions[predictions["split"] == "holdout"]
    rng = np.random.default_rng(config.seed + 1)
    order = [
        (place, index)
        for _, of_label in films.groupby("label")  # sorted by it
        for place, index in enumerate(rng.permutation(of_label.index))
    ]
    taken = [index for _, index in sorted(order)[: config.checked_films]]
    return films.loc[taken].sort_values(["label", "path"])


def _explain(
    name: str, config: ExplainConfig, baselines_BCHW: Tensor,
    network: nn.Module, x_NCHW: Tensor, targets_N: Tensor, seed: int,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    return attribute(
        name,
        cast(Network, network),
        x_NCHW,
        targets_N,
        config=config,
        baselines_BCHW=baselines_BCHW,
        seed=seed,
    )


def _quick_integrated_gradients(
    network: nn.Module, x_NCHW: Tensor, targets_N: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    return integrated_gradients_maps(
        network, x_NCHW, targets_N, steps=_QUICK_STEPS, copies=_QUICK_COPIES, seed=seed
    )


def _coarse_occlusion(
    window_px: int, network: nn.Module, x_NCHW: Tensor, targets_N: Tensor, _seed: int
) -> tuple[Tensor, None]:
    """Windows that overlap by a third only: 36 forward passes for 45 of 192 px."""
    stride_px = max(1, 2 * window_px // 3)
    maps = [
        occlusion_maps(network, x[None], window_px=window_px, stride_px=stride_px)[target]
        for x, target in zip(x_NCHW, targets_N.tolist(), strict=True)
    ]
    return torch.stack(maps), None
