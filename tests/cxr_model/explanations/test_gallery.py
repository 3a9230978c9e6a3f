"""Explanations of a run's folder: what is written, and what the record says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import RunConfig
from cxr_model.data_config import PhantomConfig
from cxr_model.explanations.gallery import explain
from cxr_model.explanations.holdout_maps import choose_holdout
from cxr_model.explanations.run_checks import choose_checked
from cxr_model.index import build_index, write_index
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.presets import smoke
from cxr_model.reports.explanation_check_figures import explanation_check_figures
from cxr_model.reports.figures import svg_bytes
from cxr_model.run_folder import RunFolder
from cxr_model.splits import assign_splits, write_splits
from cxr_model.stages import evaluate, read_predictions, train

SIDE = 64


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("explained")
    root, run = folder / "phantoms", RunFolder(folder / "run")
    config = _config()
    write_phantoms(root, PhantomConfig(num_films=36))
    index = build_index(root, config.data, config.labels)
    write_index(index, run.index)
    write_splits(assign_splits(index, config.split), run.splits)
    report = build_cache(root, index, folder, size_px=SIDE, color="grey")
    cache = FilmCache.open(report.folder)
    train(run, "r1", config, cache, lambda _: None)
    evaluate(run, config, cache)
    return run, explain(run, config, cache, root)


def _config() -> RunConfig:
    preset = smoke()
    return replace(
        preset,
        data=replace(preset.data, size_px=SIDE, source="phantom:36"),
        training=replace(preset.training, epochs=1),
        explain=replace(
            preset.explain,
            occlusion_window_px=32,
            occlusion_stride_px=16,
            integrated_gradients_steps=4,
            checks=True,
            checked_films=4,
        ),
    )


@pytest.fixture(scope="module")
def record(explained: tuple[RunFolder, dict[str, Any]]) -> dict[str, Any]:
    return dict(json.loads(explained[0].explanations.read_text()))


def test_every_method_has_a_verdict_that_follows_from_its_checks(
    explained: tuple[RunFolder, dict[str, Any]], record: dict[str, Any]
) -> None:
    assert list(record["methods"]) == list(_config().explain.methods)
    for name, method in record["methods"].items():
        deciding = [check["passed"] for check in method["checks"] if check["decides"]]
        assert method["passed"] == all(deciding)
        assert explained[1]["methods"][name] == {
            "passed": method["passed"], "verdict": method["verdict"],
        }  # fmt: skip
        names = {check["name"] for check in method["checks"]}
        assert {"insertion", "deletion", "sensitivity", "repeatability", "infidelity"} <= names
        assert {"lung-energy", "lung-pointing", "lesion-energy", "lesion-pointing"} <= names
        has_delta = name in ("integrated-gradients", "gradient-shap")
        assert ("convergence-delta" in names) == has_delta
        assert method["randomisation"][-1]["layer"] == "stem"


def test_the_whole_holdout_has_thumbnails_and_maps(
    explained: tuple[RunFolder, dict[str, Any]],
) -> None:
    run, _ = explained
    holdout = read_predictions(run.predictions).query("split == 'holdout'")
    with np.load(run.attributions / "holdout.npz") as arrays:
        assert arrays["path"].tolist() == holdout["path"].tolist()
        assert arrays["film"].shape == (len(holdout), 128, 128)
        assert arrays["grad-cam"].shape == (len(holdout), 8, 8)
        assert arrays["grad-cam"].dtype == np.float16
        assert arrays["grad-cam"].min() >= 0


def test_mean_maps_have_a_film_beside_them(explained: tuple[RunFolder, dict[str, Any]]) -> None:
    run, _ = explained
    with np.load(run.attributions / "mean.npz") as file:
        arrays = {name: file[name] for name in file if not name.startswith("count_")}
        films = {name.split("_")[1] for name in arrays if name.startswith("film_")}
        methods = {name.split("_")[0] for name in arrays} - {"film"}
        assert methods == set(_config().explain.methods)
        assert {name.split("_")[1] for name in arrays} == films
        assert all(arrays[name].shape == (SIDE, SIDE) for name in arrays)
        assert all(abs(arrays[name]).max() <= 1 for name in arrays if name[:5] != "film_")


def test_mean_maps_tell_how_many_films_they_are_of(
    explained: tuple[RunFolder, dict[str, Any]], record: dict[str, Any]
) -> None:
    run, _ = explained
    predictions = read_predictions(run.predictions)
    called = predictions.query("split == 'holdout'")["predicted"].value_counts().to_dict()
    checked = choose_checked(predictions, _config().explain)["predicted"].value_counts().to_dict()
    assert record["num_films"] < sum(called.values())
    with np.load(run.attributions / "mean.npz") as arrays:
        for kind, expected in (
            ("film", called), ("grad-cam", called), ("gradient-shap", checked)
        ):  # fmt: skip
            prefix = f"count_{kind}_"
            names = [name for name in arrays if name.startswith(prefix)]
            assert {name.removeprefix(prefix): int(arrays[name]) for name in names} == expected


def test_the_checks_are_drawn(record: dict[str, Any]) -> None:
    drawn = explanation_check_figures(record)
    assert set(drawn) == {"randomisation", "insertion", "deletion"}
    assert all(svg_bytes(figure).startswith(b"<?xml") for figure in drawn.values())


def _many_predictions(num_films: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, num_films)
    return pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(num_films)],
            "split": "holdout",
            "label": rng.choice(["a", "b", "b", "b"], num_films),
            "predicted": rng.choice(["a", "b"], num_films),
            "probability_a": sure,
            "probability_b": 1 - sure,
        }
    )


def test_of_too_many_films_the_surest_mistakes_and_a_sample_are_kept() -> None:
    predictions = _many_predictions(200)
    chosen = choose_holdout(predictions, 0, most=40)
    assert len(chosen) == 40
    assert chosen["path"].is_unique
    wrong = predictions[predictions["predicted"] != predictions["label"]]
    assert set(wrong.nlargest(20, "probability_a")["path"]) <= set(chosen["path"])
    assert 20 <= chosen["sampled"].sum() < 40
    assert len(choose_holdout(predictions, 0, most=200)) == 200


def test_the_sample_has_as_many_mistakes_as_the_holdout() -> None:
    predictions = _many_predictions(4000)
    chosen = choose_holdout(predictions, 0, most=1000)
    sample = chosen[chosen["sampled"]]
    share, whole = (
        (films["predicted"] != films["label"]).mean() for films in (sample, predictions)
    )
    assert abs(share - whole) < 3 * (whole * (1 - whole) / len(sample)) ** 0.5
    assert (chosen["predicted"] != chosen["label"]).mean() > whole + 0.1


def test_checked_films_come_evenly_from_the_classes() -> None:
    config = replace(_config().explain, checked_films=10)
    chosen = choose_checked(_many_predictions(100), config)
    assert chosen["label"].value_counts().to_dict() == {"a": 5, "b": 5}
    assert len(choose_checked(_many_predictions(6), config)) == 6


def test_pictures_are_written_whole(explained: tuple[RunFolder, dict[str, Any]]) -> None:
    names = sorted(path.name for path in Path(explained[0].attributions).iterdir())
    assert {"holdout.npz", "index.csv", "mean.npz"} <= set(names)
    assert not [name for name in names if name.startswith(".")]
