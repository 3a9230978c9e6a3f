"""An exported network answers as the one it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_model.config import NETWORKS, NetworkConfig, NetworkName
from cxr_model.errors import ConfigError, ExportError
from cxr_model.export import SUFFIXES, Format, export_model
from cxr_model.model_files import ModelCard, save_model
from cxr_model.network import build_network, network_arguments
from cxr_model.run_folder import RunFolder, sha256_file

FILMS = np.random.default_rng(1).integers(0, 256, (3, 64, 64), dtype=np.uint8)


def saved_run(root: Path, name: NetworkName = "cxresnet") -> RunFolder:
    config = NetworkConfig(name=name, widths=(8, 8, 16), depths=(1,))
    arguments = network_arguments(config, in_channels=1, num_classes=3)
    network = build_network(arguments, torch.Generator().manual_seed(0))
    card = ModelCard(
        run_id="r", network=arguments, classes=["a", "b", "c"], size_px=64, color="grey",
        mean=0.4, std=0.3, num_parameters=1, layers=[],
    )  # fmt: skip
    run = RunFolder(root)
    save_model(run, network.state_dict(), card)
    return run


@pytest.mark.parametrize("name", NETWORKS)
def test_torchscript_answers_as_pytorch_for_every_network(
    name: NetworkName, tmp_path: Path
) -> None:
    run = saved_run(tmp_path / "run", name)
    difference = export_model(run, "torchscript", tmp_path / "model.pt", FILMS)
    assert difference is not None
    assert difference < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_answers_as_pytorch_for_any_number_of_films_and_every_network(
    name: NetworkName, tmp_path: Path
) -> None:
    import onnxruntime

    path = tmp_path / "model.onnx"
    difference = export_model(saved_run(tmp_path / "run", name), "onnx", path, FILMS[:0])
    assert difference is not None
    assert 0 < difference < 1e-5  # of noise alone, too
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 5):
        films = np.zeros((num, 1, 64, 64), dtype=np.uint8)
        (probabilities,) = session.run(None, {"films": films})
        np.testing.assert_allclose(probabilities.sum(axis=1), np.ones(num), rtol=1e-5)


def test_a_network_is_not_written_where_its_card_goes(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"net\.json: is where the classes go; name a file in \.pt"
    ):
        export_model(run, "torchscript", tmp_path / "net.json", FILMS)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_safetensors_come_with_the_card_that_rebuilds_the_network(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run")
    path = tmp_path / "out" / "model.safetensors"
    assert export_model(run, "safetensors", path, FILMS) is None
    assert sha256_file(path) == sha256_file(run.weights)
    assert json.loads(path.with_suffix(".json").read_text())["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["torchscript", "safetensors"])
def test_nothing_is_left_half_written(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "out" / f"model{SUFFIXES[kind]}"
    export_model(saved_run(tmp_path / "run"), kind, path, FILMS)
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, "model.json"}


@pytest.mark.parametrize(("wrong", "told"), [(2e-4, "by up to 0.0002"), (np.nan, "by up to nan")])
def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(
    wrong: float, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = torch.jit.load
    monkeypatch.setattr(
        "torch.jit.load", lambda path: lambda batch: load(path)(batch) + torch.tensor(wrong)
    )
    path = tmp_path / "out" / "model.pt"
    with pytest.raises(ExportError, match=f"^--format torchscript: .*{told}.*; use another format"):
        export_model(saved_run(tmp_path / "run"), "torchscript", path, FILMS)
    assert list(path.parent.iterdir()) == []
