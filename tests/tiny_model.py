"""Untrained networks of milliseconds, on disk as a run has them, and films they tell apart."""

import io
import json
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from cxr_model.config import NetworkConfig, RunConfig
from cxr_model.model_files import Decision, ModelCard, load_model, save_model
from cxr_model.network import build_network, network_arguments
from cxr_model.presets import smoke
from cxr_model.reliability.film_features import describe_films
from cxr_model.reliability.outliers import OutlierModel
from cxr_model.run_folder import RunFolder, sha256_file

SIZE_PX = 32
CLASSES = ["normal", "pneumonia", "covid"]
ALWAYS_ANSWER = Decision(temperature=2.0, abstain_below=0.0, operating_points={})


def quick_config() -> RunConfig:
    """One epoch of small films."""
    preset = smoke()
    return replace(
        preset,
        data=replace(preset.data, size_px=64),
        training=replace(preset.training, epochs=1),
        evaluate=replace(preset.evaluate, bootstrap_draws=100),
        explain=replace(preset.explain, occlusion_window_px=32, occlusion_stride_px=16),
    )


def write_tiny_model(run: RunFolder, run_id: str, *, seed: int = 0, size_px: int = SIZE_PX) -> str:
    """``model/`` of a run; returns the digest of the weights."""
    config = NetworkConfig(widths=(8, 8, 16), depths=(1,))
    arguments = network_arguments(config, in_channels=1, num_classes=len(CLASSES))
    network = build_network(arguments, torch.Generator().manual_seed(seed))
    state = network.state_dict()
    state["head.weight"] *= 30  # fresh heads hold nearly the same of every film
    card = ModelCard(
        run_id=run_id,
        network=arguments,
        classes=CLASSES,
        size_px=size_px,
        color="grey",
        mean=0.5,
        std=0.25,
        num_parameters=1,
        layers=[],
    )
    save_model(run, state, card)
    ALWAYS_ANSWER.write(run.decision)
    return sha256_file(run.weights)


def change_rules(run: RunFolder, **rules: float) -> None:
    """Another decision file; with ``outlier_above`` a score that was fitted to noise."""
    replace(ALWAYS_ANSWER, **rules).write(run.decision)
    if "outlier_above" in rules:
        network, card = load_model(run, torch.device("cpu"))
        noise = torch.randint(
            256,
            (40, 1, card.size_px, card.size_px),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(0),
        )
        _, features = describe_films(network, [noise], card.normalisation)
        OutlierModel.fit(features).write(run.outlier_model)


def write_tiny_run(run: RunFolder, run_id: str, *, seed: int = 0) -> str:
    """Such a model among the other files that the registry keeps of a run."""
    for path in (run.config, run.index, run.splits, run.metrics, run.predictions):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({}))
    return write_tiny_model(run, run_id, seed=seed)


def film_bytes(number: int, side_px: int = 64) -> bytes:
    """A PNG: stripes of a width and brightness of their own for each number."""
    columns = np.arange(side_px)
    stripes = 30 + 20 * (number % 8) + 60 * (columns // (2 + number) % 2)
    buffer = io.BytesIO()
    Image.fromarray(np.tile(stripes, (side_px, 1)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
