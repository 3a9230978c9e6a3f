import dataclasses
import json
from pathlib import Path

import pytest
import torch

from cxr_model.config import NETWORKS, NetworkConfig
from cxr_model.errors import DataError
from cxr_model.model_files import Decision, ModelCard, load_model, save_model
from cxr_model.network import build_network, network_arguments
from cxr_model.run_folder import RunFolder


def _card(name: str) -> ModelCard:
    config = NetworkConfig(name=name)  # type: ignore[arg-type]
    return ModelCard(
        run_id="r1",
        network=network_arguments(config, in_channels=1, num_classes=2),
        classes=["normal", "covid"],
        size_px=64,
        color="grey",
        mean=0.5,
        std=0.25,
        num_parameters=1,
        layers=[],
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_read_back_answers_as_before(name: str, tmp_path: Path) -> None:
    card, run = _card(name), RunFolder(tmp_path)
    network = build_network(card.network, torch.Generator().manual_seed(0)).eval()
    save_model(run, network.state_dict(), card)
    again, card_again = load_model(run, torch.device("cpu"))
    x_NCHW = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x_NCHW), network(x_NCHW))
    assert card_again == card
    assert not again.training


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(dataclasses.asdict(_card("cxresnet")) | {"format_version": 99}))
    with pytest.raises(DataError, match=r"model format 99, this version reads 1; train again"):
        ModelCard.read(path)


def test_a_card_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model.json: no readable model card"):
        ModelCard.read(tmp_path / "model.json")


DECISION = Decision(
    temperature=1.7, abstain_below=0.6, operating_points={"covid": {"youden": 0.31}}
)


def test_a_decision_read_back_is_the_one_written(tmp_path: Path) -> None:
    for decision in (DECISION, dataclasses.replace(DECISION, outlier_above=3.5)):
        decision.write(RunFolder(tmp_path).decision)
        assert Decision.read(RunFolder(tmp_path).decision) == decision


def test_a_run_without_decision_or_of_another_format_is_told(tmp_path: Path) -> None:
    path = tmp_path / "decision.json"
    with pytest.raises(DataError, match=r"decision.json: no readable decision file .*fetch the ru"):
        Decision.read(path)
    dataclasses.replace(DECISION, format_version=99).write(path)
    with pytest.raises(DataError, match=r"decision format 99, this version reads 1; train again"):
        Decision.read(path)
