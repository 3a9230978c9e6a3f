"""The steps of a run on files, without Prefect: as they would run on a bare GPU machine."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import RunConfig
from cxr_model.data_config import PhantomConfig
from cxr_model.explanations.attribution import METHOD_TITLES
from cxr_model.explanations.gallery import explain, read_mask
from cxr_model.film_files import open_films
from cxr_model.index import build_index, write_index
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.predict import Predictor, score
from cxr_model.presets import smoke
from cxr_model.reliability.measure import measure_reliability
from cxr_model.run_folder import RunFolder, write_json
from cxr_model.splits import assign_splits, write_splits
from cxr_model.stages import evaluate, read_predictions, train
from cxr_model.summary import headline, write_metrics


@pytest.fixture(scope="module")
def config() -> RunConfig:
    preset = smoke()
    return replace(
        preset,
        data=replace(preset.data, size_px=64, source="phantom:30"),
        explain=replace(preset.explain, occlusion_window_px=32, occlusion_stride_px=16),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films") / "phantoms"
    write_phantoms(root, PhantomConfig(num_films=30))
    return root


@pytest.fixture(scope="module")
def cache(root: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> FilmCache:
    index = build_index(root, config.data, config.labels)
    folder = tmp_path_factory.mktemp("cache")
    report = build_cache(root, index, folder, size_px=config.data.size_px, color="grey")
    return FilmCache.open(report.folder)


@pytest.fixture(scope="module")
def run(
    root: Path, config: RunConfig, cache: FilmCache, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A run through all steps, with ``metrics.json``."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    _run_through(run, root, config, cache)
    return run


def _run_through(run: RunFolder, root: Path, config: RunConfig, cache: FilmCache) -> None:
    index = build_index(root, config.data, config.labels)
    write_json(run.config, asdict(config))
    write_index(index, run.index)
    write_splits(assign_splits(index, config.split), run.splits)
    training = train(run, "r1", config, cache, lambda _: None)
    holdout = evaluate(run, config, cache)
    measure_reliability(run, config)
    explanations = explain(run, config, cache, root)
    write_metrics(
        run,
        "r1",
        config,
        source="phantom:30",
        provenance={"kind": "phantom"},
        training=training,
        holdout=holdout,
        explanations=explanations,
        stage_seconds={"train": 1.0},
    )


def _metrics(run: RunFolder) -> dict[str, Any]:
    return dict(json.loads(run.metrics.read_text()))


def test_figures_agree_with_the_published_predictions(run: RunFolder) -> None:
    holdout = read_predictions(run.predictions).query("split == 'holdout'")
    figures = _metrics(run)["holdout"]
    assert figures["n"] == len(holdout) == 6
    expected = accuracy_score(holdout["label"], holdout["predicted"])
    assert figures["accuracy"]["value"] == pytest.approx(expected)
    expected = balanced_accuracy_score(holdout["label"], holdout["predicted"])
    assert figures["balanced_accuracy"]["value"] == pytest.approx(expected)


def test_probabilities_add_up_and_name_the_prediction(run: RunFolder) -> None:
    predictions = read_predictions(run.predictions)
    columns = ["probability_normal", "probability_pneumonia", "probability_covid"]
    np.testing.assert_allclose(predictions[columns].sum(axis=1), 1)
    named = predictions[columns].idxmax(axis=1).str.removeprefix("probability_")
    assert (named == predictions["predicted"]).all()


def test_record_counts_every_film_once(run: RunFolder) -> None:
    data = _metrics(run)["data"]
    assert data["classes"] == ["normal", "pneumonia", "covid"]
    assert sum(sum(splits.values()) for splits in data["counts"].values()) == 30
    assert headline(_metrics(run))["network"] == "cxresnet"


def test_history_has_a_row_an_epoch(run: RunFolder, config: RunConfig) -> None:
    history = pd.read_csv(run.history)
    assert history["epoch"].tolist() == list(range(1, config.training.epochs + 1))


def test_the_saved_network_predicts_files_as_it_predicted_the_holdout(
    run: RunFolder, root: Path
) -> None:
    predictor = Predictor.load(run, torch.device("cpu"))
    with open_films(str(root)) as films:
        answered = pd.concat(batch.table for batch in score(films, predictor)).set_index("path")
    expected = read_predictions(run.predictions)
    answered = answered.loc[[str(root / path) for path in expected["path"]]]
    assert answered["predicted"].tolist() == expected["predicted"].tolist()
    assert answered["sha256"].tolist() == expected["sha256"].tolist()
    for name in predictor.card.classes:
        column = f"probability_{name}"
        np.testing.assert_allclose(answered[column], expected[column], atol=1e-5)


def test_every_listed_map_is_there_with_its_film(run: RunFolder) -> None:
    index = pd.read_csv(run.attributions / "index.csv")
    assert set(index["method"]) == set(METHOD_TITLES)
    for file, maps in index.groupby("file"):
        with np.load(run.attributions / str(file)) as arrays:
            assert arrays["film"].shape == (64, 64)
            assert all(np.isfinite(arrays[name]).all() for name in maps["array"])
            assert ("mask" in arrays) == (maps["label"].iloc[0] != "normal")


def test_pointing_game_stands_in_the_record_where_masks_exist(run: RunFolder) -> None:
    figures = _metrics(run)["explanations"]
    predictions = read_predictions(run.predictions).query(
        "split == 'holdout' and label == predicted"
    )
    diseased = predictions.query("label != 'normal'")
    if len(diseased):
        assert figures["grad_cam_pointing_game"]["n"] == len(diseased)
    else:
        assert figures == {}


def test_masks_follow_their_film_to_the_working_size(root: Path) -> None:
    path = next((root / "masks").rglob("*.png"))
    small, large = read_mask(path, 64), read_mask(path, 256)
    assert small.shape == (64, 64)
    assert abs(small.mean() - large.mean()) < 0.01


def test_the_same_settings_give_the_same_weights_and_figures(
    run: RunFolder, root: Path, config: RunConfig, cache: FilmCache, tmp_path: Path
) -> None:
    again = RunFolder(tmp_path)
    _run_through(again, root, config, cache)
    assert again.weights.read_bytes() == run.weights.read_bytes()
    assert again.predictions.read_bytes() == run.predictions.read_bytes()
    assert _metrics(again)["holdout"] == _metrics(run)["holdout"]


def test_a_training_without_films_to_validate_on_tells_of_no_figure(
    root: Path, config: RunConfig, cache: FilmCache, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    splits = assign_splits(build_index(root, config.data, config.labels), config.split)
    write_splits(splits[splits["split"] != "validation"], run.splits)
    config = replace(config, training=replace(config.training, epochs=1))
    summary = train(run, "r1", config, cache, lambda _: None)
    assert summary.best_validation_balanced_accuracy is None
    assert json.dumps(asdict(summary), allow_nan=False)


def test_training_needs_no_orchestration() -> None:
    """A bare GPU machine has PyTorch, and neither Prefect nor what belongs to it."""
    code = (
        "import sys, cxr_model.stages; "
        "absent = {'prefect', 'captum', 'boto3', 'kaggle', 'pydantic', 'tensorboard'}; "
        "found = absent & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
