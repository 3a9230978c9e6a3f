"""The outlier score on phantoms, with a network that was trained on them for a moment."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.covariance import LedoitWolf

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import EvaluateConfig, NetworkConfig, RunConfig, TrainingConfig
from cxr_model.data_config import DataConfig, LabelConfig, PhantomConfig
from cxr_model.errors import DataError
from cxr_model.index import build_index
from cxr_model.model_files import Decision
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.predict import Predictor
from cxr_model.reliability.outliers import OutlierModel, measure_outliers
from cxr_model.reliability.robustness import measure_robustness
from cxr_model.reliability.strangers import STRANGERS
from cxr_model.run_folder import RunFolder
from cxr_model.splits import assign_splits, read_splits, write_splits
from cxr_model.stages import evaluate, train
from tests.tiny_model import ALWAYS_ANSWER

CPU = torch.device("cpu")
CONFIG = RunConfig(
    data=DataConfig(size_px=64),
    network=NetworkConfig(widths=(8, 8, 16, 16), depths=(1, 1)),
    training=TrainingConfig(epochs=1, precision="float32"),
    evaluate=EvaluateConfig(bootstrap_draws=200),
)
NUM_FILMS = 75


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[FilmCache, pd.DataFrame]:
    root = tmp_path_factory.mktemp("films") / "phantoms"
    write_phantoms(root, PhantomConfig(num_films=NUM_FILMS))
    index = build_index(root, CONFIG.data, LabelConfig())
    folder = tmp_path_factory.mktemp("cache")
    report = build_cache(root, index, folder, size_px=CONFIG.data.size_px, color="grey")
    return FilmCache.open(report.folder), index


@pytest.fixture(scope="module")
def run(
    cache: tuple[FilmCache, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    films, index = cache
    run = RunFolder(tmp_path_factory.mktemp("run"))
    write_splits(assign_splits(index, CONFIG.split), run.splits)
    train(run, "r1", CONFIG, films, lambda _: None)
    evaluate(run, CONFIG, films)
    ALWAYS_ANSWER.write(run.decision)
    measure_outliers(run, CONFIG, films)
    measure_robustness(run, CONFIG, films)
    return run


def copy_of(run: RunFolder, folder: Path) -> RunFolder:
    shutil.copytree(run.root, folder, dirs_exist_ok=True)
    return RunFolder(folder)


def pixels_of(run: RunFolder, cache: FilmCache, split: str) -> np.ndarray:
    splits = read_splits(run.splits)
    films = splits[splits["split"] == split]
    return cache.films[cache.rows(films["sha256"].tolist())]


def test_strangers_are_told_from_films_and_marked(run: RunFolder) -> None:
    found = json.loads(run.outliers.read_text())
    assert set(found["auroc"]) == set(found["flagged"]) == set(STRANGERS)
    for name in STRANGERS:
        assert found["auroc"][name]["value"] > 0.95, name
        low, high = found["auroc"][name]["ci_low"], found["auroc"][name]["ci_high"]
        assert low <= found["auroc"][name]["value"] <= high
    for name in ("noise", "blank", "inverted", "natural", "scene"):
        assert found["flagged"][name]["value"] > 0.9, name
    assert found["holdout_flagged"]["value"] < 0.15


def test_a_prediction_carries_the_score_that_was_measured(
    run: RunFolder, cache: tuple[FilmCache, pd.DataFrame]
) -> None:
    found = json.loads(run.outliers.read_text())
    predictor = Predictor.load(run, CPU)
    holdout = pixels_of(run, cache[0], "holdout")
    judged = predictor.judge(holdout)
    assert judged.is_outlier_N.mean() == pytest.approx(found["holdout_flagged"]["value"])
    rng = np.random.default_rng(0)
    noise = predictor.judge(np.stack([STRANGERS["noise"](film, rng) for film in holdout[:5]]))
    assert noise.decisions == ["outlier"] * 5
    assert set(noise.predicted) <= set(predictor.card.classes)
    assert Decision.read(run.decision).outlier_above == found["threshold"]


def test_a_films_score_is_the_same_in_every_batch(
    run: RunFolder, cache: tuple[FilmCache, pd.DataFrame]
) -> None:
    predictor = Predictor.load(run, CPU)
    films = pixels_of(run, cache[0], "holdout")[:9]
    together = predictor.judge(films)
    alone = [predictor.judge(film[None]).outlier_score_N[0] for film in films]
    np.testing.assert_allclose(together.outlier_score_N, alone, rtol=1e-4)
    backwards = predictor.judge(films[::-1]).outlier_score_N[::-1]
    np.testing.assert_allclose(together.outlier_score_N, backwards, rtol=1e-4)
    np.testing.assert_array_equal(together.probabilities_NC, predictor.probabilities(films))


def test_the_bound_never_looks_at_the_holdout(
    run: RunFolder, cache: tuple[FilmCache, pd.DataFrame], tmp_path: Path
) -> None:
    other = copy_of(run, tmp_path)
    splits = read_splits(run.splits)
    is_holdout = (splits["split"] == "holdout").to_numpy()
    # Fewer holdout films, and under other names: what was fitted stays what it was.
    write_splits(splits[~is_holdout | (np.arange(len(splits)) % 2 == 0)], other.splits)
    found = measure_outliers(other, CONFIG, cache[0])
    before = json.loads(run.outliers.read_text())
    assert found["threshold"] == before["threshold"]
    assert found["holdout_flagged"]["n"] < before["holdout_flagged"]["n"]
    assert other.outlier_model.read_bytes() == run.outlier_model.read_bytes()


def test_few_validation_films_lie_above_the_bound_and_a_run_repeats_itself(
    run: RunFolder, cache: tuple[FilmCache, pd.DataFrame], tmp_path: Path
) -> None:
    judged = Predictor.load(run, CPU).judge(pixels_of(run, cache[0], "validation"))
    assert judged.is_outlier_N.sum() <= 0.01 * len(judged.is_outlier_N)
    assert measure_outliers(copy_of(run, tmp_path), CONFIG, cache[0]) == json.loads(
        run.outliers.read_text()
    )


def test_the_histograms_hold_every_film(run: RunFolder) -> None:
    found = json.loads(run.outliers.read_text())
    scores = found["scores"]
    assert np.all(np.diff(scores["edges"]) > 0)
    assert sum(scores["holdout"]) == found["holdout_flagged"]["n"]
    for name in STRANGERS:
        assert sum(scores[name]) == found["flagged"][name]["n"]


@pytest.mark.parametrize("features_ND", [np.eye(2, 9), np.ones((5, 9))])
def test_films_too_few_or_too_alike_for_a_covariance_are_fitted_all_the_same(
    features_ND: np.ndarray,
) -> None:
    model = OutlierModel.fit(features_ND)
    known_N, (strange,) = model.scores(features_ND), model.scores(np.full((1, 9), 7.0))
    assert np.isfinite(known_N).all()
    assert strange > known_N.max()


def test_the_score_is_scikit_learns_mahalanobis_distance_a_feature() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 12)) @ rng.normal(size=(12, 12)) + 5
    others = rng.normal(size=(4, 12))
    model = OutlierModel.fit(features)

    def standard(values: np.ndarray) -> np.ndarray:
        return (values - features.mean(axis=0)) / features.std(axis=0)

    expected = LedoitWolf(assume_centered=True).fit(standard(features))
    distances = expected.mahalanobis(standard(others))
    np.testing.assert_allclose(model.scores(others), np.sqrt(distances / 12))


def test_a_feature_that_never_varies_does_no_harm() -> None:
    features = np.random.default_rng(0).normal(size=(60, 3))
    features[:, 1] = 7.0
    assert np.isfinite(OutlierModel.fit(features).scores(features)).all()


def test_a_fitted_score_that_cannot_serve_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"outliers.safetensors: is for .* fetch the run again"):
        OutlierModel.read(run.outlier_model).scores(np.zeros((1, 3)))
    path = tmp_path / "outliers.safetensors"
    with pytest.raises(DataError, match="no readable outlier model"):
        OutlierModel.read(path)
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match="no readable outlier model"):
        OutlierModel.read(path)
    save_file({"mean": np.zeros(1)}, path, metadata={"format_version": "99"})
    with pytest.raises(DataError, match="outlier format 99, this version reads 1; train again"):
        OutlierModel.read(path)


def test_a_run_without_a_decision_file_is_told(
    run: RunFolder, cache: tuple[FilmCache, pd.DataFrame], tmp_path: Path
) -> None:
    other = copy_of(run, tmp_path)
    other.decision.unlink()
    with pytest.raises(DataError, match="no readable decision file"):
        measure_outliers(other, CONFIG, cache[0])


def test_damage_is_measured_on_the_same_films_as_the_clean_ones(
    run: RunFolder, cache: tuple[FilmCache, pd.DataFrame], tmp_path: Path
) -> None:
    found = json.loads(run.robustness.read_text())
    predictions = pd.read_csv(run.predictions).query("split == 'holdout'")
    accuracy = (predictions["predicted"] == predictions["label"]).mean()
    assert found["clean"]["accuracy"]["value"] == pytest.approx(accuracy)
    by_class = (predictions["predicted"] == predictions["label"]).groupby(predictions["label"])
    assert found["clean"]["balanced_accuracy"]["value"] == pytest.approx(by_class.mean().mean())
    for condition in found["conditions"]:
        assert condition["accuracy"]["n"] == len(predictions)
        change = (
            condition["balanced_accuracy"]["value"] - (found["clean"]["balanced_accuracy"]["value"])
        )
        assert condition["change"]["value"] == pytest.approx(change)
    other = copy_of(run, tmp_path)
    again = measure_robustness(other, CONFIG, cache[0])
    assert again == found
    reseeded = replace(CONFIG, evaluate=replace(CONFIG.evaluate, seed=1))
    assert measure_robustness(other, reseeded, cache[0]) != found
