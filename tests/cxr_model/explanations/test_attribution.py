import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import Occlusion
from torch import Tensor, nn

from cxr_model.config import ExplainConfig, NetworkConfig
from cxr_model.explanations.attribution import (
    choose_films,
    explain_film,
    grad_cam_maps,
    gradient_shap_maps,
    integrated_gradients_maps,
    occlusion_maps,
)
from cxr_model.explanations.localisation import peaks_inside
from cxr_model.network import CxResNet, build_network, network_arguments

CONFIG = ExplainConfig(occlusion_window_px=16, occlusion_stride_px=8, integrated_gradients_steps=8)


@pytest.fixture(scope="module")
def network() -> CxResNet:
    arguments = network_arguments(
        NetworkConfig(widths=(8, 8, 16), depths=(1,)), in_channels=1, num_classes=3
    )
    network = build_network(arguments, torch.Generator().manual_seed(0))
    assert isinstance(network, CxResNet)
    return network.eval()


def _film(seed: int = 0) -> Tensor:
    return torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(seed))


class _CornerNet(nn.Module):
    """Class 1's logit is the mean of the upper left quarter."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logit_N = x_NCHW[:, :, :24, :24].mean(dim=(1, 2, 3))
        return torch.stack([-logit_N, logit_N], dim=1)


def test_one_occlusion_sweep_gives_captums_map_of_every_class(network: CxResNet) -> None:
    maps_KHW = occlusion_maps(network, _film(), window_px=16, stride_px=8)
    for target in range(3):
        with torch.no_grad():
            expected = Occlusion(network).attribute(
                _film(), (1, 16, 16), strides=(1, 8, 8), target=target
            )
        torch.testing.assert_close(maps_KHW[target], expected[0, 0], atol=1e-5, rtol=1e-4)


def test_occlusion_points_to_where_the_evidence_is() -> None:
    maps_KHW = occlusion_maps(_CornerNet(), torch.ones(1, 1, 48, 48), window_px=8, stride_px=8)  # type: ignore[arg-type]
    assert maps_KHW[1, :24, :24].min() > 0
    assert maps_KHW[1, 24:].abs().max() == 0
    torch.testing.assert_close(maps_KHW[0], -maps_KHW[1])


def test_integrated_gradients_add_up_to_the_change_of_the_logit() -> None:
    x_1CHW = _film()
    maps_1HW, deltas_1 = integrated_gradients_maps(
        _CornerNet(), x_1CHW, torch.tensor([1]), steps=4, seed=0
    )  # type: ignore[arg-type]
    logit = float(_CornerNet()(x_1CHW)[0, 1])
    assert float(deltas_1[0]) == pytest.approx(0, abs=1e-5)
    assert float(maps_1HW.sum()) == pytest.approx(logit, abs=0.02)  # of noisy copies


def test_gradient_shap_tells_the_film_from_its_baselines() -> None:
    x_NCHW = torch.ones(2, 1, 48, 48)
    maps_NHW, deltas_N = gradient_shap_maps(
        _CornerNet(), x_NCHW, torch.tensor([1, 0]), torch.zeros(3, 1, 48, 48), seed=0
    )  # type: ignore[arg-type]
    assert maps_NHW[0, :24, :24].mean() > 0
    assert maps_NHW[1, :24, :24].mean() < 0
    assert maps_NHW[:, 24:].abs().max() == 0
    assert deltas_N.abs().max() < 0.05


def test_a_seed_gives_the_same_map_and_leaves_other_draws_alone(network: CxResNet) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    maps = [
        gradient_shap_maps(network, _film(), torch.tensor([1]), _film(1), seed=seed)[0]
        for seed in (0, 0, 1)
    ]
    assert (torch.rand(1), np.random.rand()) == expected
    torch.testing.assert_close(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])


def test_grad_cam_of_a_batch_is_that_of_each_film(network: CxResNet) -> None:
    x_NCHW = torch.cat([_film(0), _film(1)])
    maps_NHW = grad_cam_maps(network, x_NCHW, torch.tensor([0, 2]))
    assert maps_NHW.shape == (2, 48, 48)
    assert maps_NHW.min() >= 0
    alone = grad_cam_maps(network, _film(1), torch.tensor([2]))
    torch.testing.assert_close(maps_NHW[1], alone[0], atol=1e-5, rtol=1e-4)


def test_a_film_gets_one_map_for_each_method_and_class(network: CxResNet) -> None:
    maps = explain_film(network, _film(), [2, 0], CONFIG, _film(1))
    assert set(maps) == {(method, target) for method in CONFIG.methods for target in (0, 2)}
    assert all(map_HW.shape == (48, 48) for map_HW in maps.values())
    only = dataclasses.replace(CONFIG, methods=("grad-cam",))
    assert set(explain_film(network, _film(), [1], only, _film(1))) == {("grad-cam", 1)}


def _predictions() -> pd.DataFrame:
    labels = ["a"] * 10 + ["b"] * 10
    predicted = ["a"] * 8 + ["b"] * 9 + ["a"] * 3
    certainty = np.linspace(0.5, 0.95, 20)
    sure_of_a = [c if p == "a" else 1 - c for c, p in zip(certainty, predicted, strict=True)]
    return pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(20)],
            "split": ["holdout"] * 19 + ["validation"],
            "label": labels,
            "predicted": predicted,
            "probability_a": sure_of_a,
            "probability_b": 1 - np.array(sure_of_a),
        }
    )


def test_chosen_films_are_a_sample_of_each_class_and_the_surest_mistakes() -> None:
    config = ExplainConfig(films_per_class=3, num_mistakes=2)
    chosen = choose_films(_predictions(), config)
    assert not chosen["path"].duplicated().any()
    assert (chosen["split"] == "holdout").all()
    assert chosen[chosen["chosen"] == "sample"]["label"].value_counts().to_dict() == {
        "a": 3,
        "b": 3,
    }
    mistakes = chosen[chosen["chosen"] == "mistake"]
    assert (mistakes["label"] != mistakes["predicted"]).all()
    films = _predictions().query("split == 'holdout' and label != predicted")
    left_out = films[~films["path"].isin(chosen["path"])]
    assert len(left_out)
    surest = left_out[["probability_a", "probability_b"]].max().max()
    assert mistakes["probability"].min() >= surest


def test_the_sample_does_not_look_at_the_prediction() -> None:
    config = ExplainConfig(films_per_class=3, num_mistakes=0)
    first = choose_films(_predictions(), config)["path"].tolist()
    relabelled = _predictions().assign(predicted="a")
    assert choose_films(relabelled, config)["path"].tolist() == first


def test_a_peak_counts_only_inside_its_own_mask() -> None:
    maps = np.zeros((3, 8, 8), dtype=np.float32)
    maps[0, 2, 3] = maps[1, 2, 3] = 1
    masks = np.zeros((3, 8, 8), dtype=np.bool_)
    masks[0, 2, 3] = masks[1, 5, 5] = masks[2, 0, 0] = True
    assert peaks_inside(maps, masks).tolist() == [True, False, False]
