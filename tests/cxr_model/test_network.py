from typing import Any

import pytest
import torch

from cxr_model.config import NETWORKS, NetworkConfig
from cxr_model.errors import ConfigError
from cxr_model.network import (
    Network,
    build_network,
    describe_layers,
    network_arguments,
    num_parameters,
)


def _build(name: Any, *, in_channels: int = 1, num_classes: int = 3, seed: int = 0) -> Network:
    arguments = network_arguments(
        NetworkConfig(name=name), in_channels=in_channels, num_classes=num_classes
    )
    return build_network(arguments, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 3), (3, 2), (1, 5)])
def test_network_maps_films_to_logits(name: str, in_channels: int, num_classes: int) -> None:
    network = _build(name, in_channels=in_channels, num_classes=num_classes)
    assert network(torch.randn(2, in_channels, 96, 96)).shape == (2, num_classes)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_seed_fixes_every_weight(name: str) -> None:
    torch.manual_seed(7)
    first = _build(name).state_dict()
    torch.manual_seed(8)
    again, other = _build(name).state_dict(), _build(name, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_feature_map_keeps_a_place_for_each_part_of_the_film(name: str) -> None:
    network = _build(name).eval()
    seen: list[torch.Tensor] = []
    network.last_feature_map.register_forward_hook(lambda *hooked: seen.append(hooked[2]))
    network(torch.randn(1, 1, 224, 224))
    assert seen[0].ndim == 4
    assert seen[0].shape[-1] == (14 if name == "cxresnet" else 7)


def test_darkcovidnet_has_about_the_published_parameters() -> None:
    # The paper counts 1,164,434; its linear layer is for another map than its input gives.
    assert num_parameters(_build("darkcovidnet")) == pytest.approx(1_164_434, rel=0.005)


def test_seed_networks_have_the_published_stages() -> None:
    rows = describe_layers(_build("seed-resnet"), in_channels=1, size_px=224)
    shapes = {row["name"]: row["output_shape"] for row in rows}
    assert shapes["stem"] == [16, 112, 112]
    assert [shapes[f"stage {i}"] for i in (1, 2, 3, 4)] == [
        [64, 56, 56],
        [128, 28, 28],
        [256, 14, 14],
        [512, 7, 7],
    ]
    rows = describe_layers(_build("seed-convnet"), in_channels=1, size_px=224)
    assert sum(row["name"].startswith("stage") for row in rows) == 5


@pytest.mark.parametrize("name", NETWORKS)
def test_described_layers_hold_every_parameter(name: str) -> None:
    network = _build(name)
    rows = describe_layers(network, in_channels=1, size_px=64)
    assert sum(row["num_parameters"] for row in rows) == num_parameters(network)
    assert network.training, "describing a network must leave its mode alone"


def test_default_network_stays_below_the_parameter_budget() -> None:
    assert num_parameters(_build("cxresnet")) < 12_000_000


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"network.name='vgg': use one of cxresnet"):
        build_network({"name": "vgg"}, torch.Generator())
