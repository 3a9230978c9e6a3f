"""Features come with the answer that they belong to, however little memory there is."""

import pytest
import torch
from torch import Tensor, nn

from cxr_model.config import NetworkConfig
from cxr_model.films import Normalisation
from cxr_model.network import Network, build_network, network_arguments
from cxr_model.reliability.film_features import describe_films

PLAIN = Normalisation(mean=0.5, std=0.25)


@pytest.fixture
def network() -> Network:
    config = NetworkConfig(widths=(8, 8, 16), depths=(1,))
    arguments = network_arguments(config, in_channels=1, num_classes=3)
    return build_network(arguments, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False])
def test_films_are_described_alike_where_memory_runs_out_behind_the_first_maps(
    network: Network, training: bool
) -> None:
    network.train(training)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (9, 1, 32, 32), generator=generator, dtype=torch.uint8)
    logits, features = describe_films(network, [pixels], PLAIN)

    def refuse(_: nn.Module, arguments: tuple[Tensor]) -> None:
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError("no room")

    network.last_feature_map.register_forward_pre_hook(refuse)
    again, described = describe_films(network, pixels.split(5), PLAIN)
    torch.testing.assert_close(again, logits)
    torch.testing.assert_close(torch.from_numpy(described), torch.from_numpy(features))
    assert len(features) == 9
    assert network.training is training
