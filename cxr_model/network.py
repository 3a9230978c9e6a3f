"""Our own network, ``cxresnet``, and what every network is built and described with.

All networks, those of `cxr_model.reference_networks` too, take normalised films ``x_NCHW``
(float, zero mean, unit variance over the training films) and return logits
``(N, num_classes)``. Each names its last feature map for Grad-CAM. Shape suffixes as in
`cxr_model.blocks`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxr_model.blocks import ConvUnit, ResidualTriple
from cxr_model.config import NETWORKS, NetworkConfig
from cxr_model.errors import ConfigError
from cxr_model.reference_networks import DarkCovidNet, ResNet18, SeedConvNet, SeedResNet


class CxResNet(nn.Module):
    """Residual triples between poolings, for small sets of large films.

    The first convolution sees the film at its full size with few channels, and each pooling
    keeps the strongest answer of four: on small sets that told films apart better than a
    strided stem with four times the channels (``docs/log.md``). ``widths`` holds the two
    stem convolutions' channels, then each stage's; ``depths`` the triples a stage. With
    three stages the last map has a sixteenth of the film's side (16 x 16 at 256 px) and
    localises twice as finely as the usual thirty-second.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int],
        depths: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvUnit(in_channels, widths[0], 3),
            nn.MaxPool2d(2),
            ConvUnit(widths[0], widths[1], 3),
        )
        stages: list[nn.Module] = []
        for before, width, depth in zip(widths[1:], widths[2:], depths, strict=False):
            triples = [ResidualTriple(before, width)]
            triples += [ResidualTriple(width, width) for _ in range(depth - 1)]
            stages.append(nn.Sequential(nn.MaxPool2d(2), *triples))
        self.stages = nn.Sequential(*stages)
        last = widths[-1]
        self.tail = nn.Sequential(ConvUnit(last, last // 2, 1), ConvUnit(last // 2, last, 3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(last, num_classes)

    @property
    def last_feature_map(self) -> nn.Module:
        return self.tail

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features_NDhw: Tensor = self.tail(self.stages(self.stem(x_NCHW)))
        logits: Tensor = self.head(self.dropout(self.pool(features_NDhw).flatten(1)))
        return logits


Network = CxResNet | SeedResNet | SeedConvNet | ResNet18 | DarkCovidNet


def init_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Fill every weight from ``generator``, so that a seed fixes the network bit for bit.

    Kaiming normal (He et al. 2015, arXiv:1502.01852), fan out for convolutions and fan in
    for linear layers; norms at identity; biases zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(
                module.weight,
                mode="fan_out" if isinstance(module, nn.Conv2d) else "fan_in",
                nonlinearity="relu",
                generator=generator,
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def network_arguments(
    config: NetworkConfig, *, in_channels: int, num_classes: int
) -> dict[str, Any]:
    """Plain numbers from which `build_network` builds; kept in ``model.json``."""
    arguments: dict[str, Any] = {"name": config.name, "num_classes": num_classes}
    if config.name == "cxresnet":
        arguments |= {
            "in_channels": in_channels,
            "widths": list(config.widths),
            "depths": list(config.depths),
            "dropout": config.dropout,
        }
    return arguments


def build_network(arguments: dict[str, Any], generator: torch.Generator) -> Network:
    """Build and initialise the network that ``arguments`` (`network_arguments`) describe.

    Raises ``ConfigError`` for a name that is not one of ``NETWORKS``.
    """
    kinds = dict(
        zip(NETWORKS, (CxResNet, SeedResNet, SeedConvNet, ResNet18, DarkCovidNet), strict=True)
    )
    rest = dict(arguments)
    name = rest.pop("name")
    if name not in kinds:
        raise ConfigError(f"network.name={name!r}: use one of {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):  # modules first fill themselves from the global one
        network: Network = kinds[name](**rest)
    init_weights(network, generator)
    return network


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def describe_layers(network: Network, *, in_channels: int, size_px: int) -> list[dict[str, Any]]:
    """The parts in the order they run, with the output shape ``[C, H, W]`` (or ``[C]``) of each.

    A row is a child of the network, of ``stages`` each stage; shapes are read from a forward pass
    of one empty film.
    """
    rows: list[dict[str, Any]] = []

    def record(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            rows.append(
                {
                    "name": name,
                    "kind": " → ".join(
                        type(part).__name__
                        for part in (module if type(module) is nn.Sequential else [module])
                    ),
                    "output_shape": list(output.shape[1:]),
                    "num_parameters": num_parameters(module),
                }
            )

        handles.append(module.register_forward_hook(hook))

    handles: list[Any] = []
    for name, module in network.named_children():
        if name == "stages":
            for i, stage in enumerate(module.children()):
                record(f"stage {i + 1}", stage)
        else:
            record(name, module)
    was_training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, in_channels, size_px, size_px))
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return rows
