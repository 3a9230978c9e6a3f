"""A trained network on disk.

``model.safetensors`` holds the weights, ``model.json`` what rebuilds the network around them
and ``decision.json`` what turns its probabilities into decisions.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cxr_model.errors import DataError
from cxr_model.films import Normalisation
from cxr_model.network import Network, build_network
from cxr_model.run_folder import RunFolder, atomic_path, write_json

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """All that is needed to rebuild a network and to feed it as in training."""

    format_version: int = FORMAT_VERSION
    run_id: str
    network: dict[str, Any]
    """Arguments of `cxr_model.network.build_network`."""
    classes: list[str]
    """In the order of the output units."""
    size_px: int
    color: str
    mean: float
    std: float
    num_parameters: int
    layers: list[dict[str, Any]]

    @property
    def normalisation(self) -> Normalisation:
        return Normalisation(mean=self.mean, std=self.std)

    @classmethod
    def read(cls, path: Path) -> "ModelCard":
        return cls(**_read_values(path, "model card", "model format"))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a run chose on its validation films to decide with."""

    format_version: int = FORMAT_VERSION
    temperature: float
    """Calibrated probabilities are ``calibration.temper(probabilities_NC, temperature)``."""
    abstain_below: float
    """No answer where the largest calibrated probability lies below."""
    operating_points: dict[str, dict[str, float]]
    """Class -> rule -> threshold: the class is called where its calibrated probability is at
    or above; slightly above 1 where the rule calls no film."""
    outlier_above: float | None = None
    """A film whose outlier score lies above is no radiograph like those of the training; None
    where no score was fitted."""

    @classmethod
    def read(cls, path: Path) -> "Decision":
        """Raises ``DataError`` where it is missing, cannot be read or is of another format."""
        return cls(**_read_values(path, "decision file", "decision format"))

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


def _read_values(path: Path, what: str, format_name: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable {what} ({error}); fetch the run again") from error
    if values.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: {format_name} {values.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; train again or use the version that wrote it"
        )
    return values


def save_model(run: RunFolder, state: dict[str, Tensor], card: ModelCard) -> None:
    """Weights first, card last: a card never stands beside other weights."""
    with atomic_path(run.weights) as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary)
    write_json(run.model_card, asdict(card))


def load_model(run: RunFolder, device: torch.device) -> tuple[Network, ModelCard]:
    """The network in evaluation mode on ``device``, and its card."""
    card = ModelCard.read(run.model_card)
    network = build_network(card.network, torch.Generator())
    network.load_state_dict(load_file(run.weights))
    network.to(device).to(memory_format=torch.channels_last)
    return network.eval(), card
