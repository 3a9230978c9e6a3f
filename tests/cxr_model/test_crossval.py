"""Folds on files: each film predicted once, nothing trained twice, intervals that hold."""

import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from scipy import stats

from cxr_model.cache import FilmCache, build_cache
from cxr_model.config import RunConfig
from cxr_model.crossval import (
    check_begun_folds,
    check_begun_settings,
    drop_folds_of_other_films,
    mean_over_folds,
    run_fold,
    summarise_protocol,
)
from cxr_model.data_config import PhantomConfig
from cxr_model.errors import ConfigError
from cxr_model.folds import CrossvalConfig, plan_folds
from cxr_model.index import build_index, read_index, write_index
from cxr_model.intervals import proportion_interval, wilson_slack
from cxr_model.phantoms.phantom import write_phantoms
from cxr_model.reports.crossval_report import crossval_headline, summary_markdown, write_crossval
from cxr_model.run_folder import RunFolder, read_json, sha256_file, write_json
from cxr_model.trainer import EpochRecord
from tests.tiny_model import quick_config

PLAN = CrossvalConfig(num_folds=2)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return quick_config()


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("films") / "phantoms"
    write_phantoms(root, PhantomConfig(num_films=30, films_per_patient=2))
    run = RunFolder(tmp_path_factory.mktemp("run"))
    index = build_index(root, config.data, config.labels)
    write_index(index, run.index)
    report = build_cache(root, index, tmp_path_factory.mktemp("cache"), size_px=64, color="grey")
    cache = FilmCache.open(report.folder)
    for fold in plan_folds(PLAN):
        told: list[EpochRecord] = []
        for _ in range(2):  # the second time there is nothing to do
            run_fold(run, fold, config, PLAN, cache, told.append)
        assert [record.epoch for record in told] == [1]
    write_crossval(run, "cv", config, PLAN, source="phantom:30")
    return run


def test_each_film_is_predicted_once_a_protocol(run: RunFolder) -> None:
    for protocol in PLAN.protocols:
        table = pd.read_csv(run.root / f"predictions-{protocol}.csv")
        assert len(table) == table["path"].nunique() == 30
        assert table.groupby("fold").size().between(10, 20).all()
        scores = table[["probability_normal", "probability_pneumonia", "probability_covid"]]
        np.testing.assert_allclose(scores.sum(axis=1), 1)


def test_the_record_agrees_with_the_predictions(run: RunFolder) -> None:
    record = read_json(run.root / "crossval.json")
    for row in record["rows"]:
        table = pd.read_csv(run.root / f"predictions-{row['protocol']}.csv")
        hits = table["label"] == table["predicted"]
        assert row["accuracy"]["by_fold"] == pytest.approx(hits.groupby(table["fold"]).mean())
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(row["accuracy"]["by_fold"]))
        assert row["num_parameters"] > 0
    tables = [pd.read_csv(run.root / f"predictions-{name}.csv") for name in PLAN.protocols]
    naive, grouped = ((table["label"] == table["predicted"]).mean() for table in tables)
    leakage = record["leakage_estimate"]
    assert leakage["accuracy"]["value"] == pytest.approx(naive - grouped)
    parts = [leakage[name] for name in ("related", "unrelated") if name in leakage]
    assert sum(part["n"] for part in parts) == leakage["n"]
    gained = sum(part["n"] * part["accuracy"]["value"] for part in parts)
    assert gained == pytest.approx(leakage["n"] * (naive - grouped))
    told = crossval_headline(record)
    assert told["network"].split()[-1] == record["rows"][1]["protocol"]
    assert told["naive_accuracy"]["value"] == record["rows"][0]["accuracy"]["mean"]
    assert told["leakage_estimate"] == record["leakage_estimate"]["accuracy"]


def test_page_and_summary_show_both_protocols_and_the_difference(run: RunFolder) -> None:
    page = run.report.read_text()
    summary = summary_markdown(read_json(run.root / "crossval.json"))
    for text in (page, summary):
        assert "naive" in text
        assert "grouped" in text
        assert "eakage estimate" in text
    assert "Not a medical device" in page
    assert "://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("low", "related", "told"),
    [
        (0.01, (0.07, 0.02), "A published figure gains something"),
        (0.01, (0.07, -0.01), "That the gain comes from relatives is not shown"),
        (0.01, (0.03, 0.01), "That the gain comes from relatives is not shown"),
        (0.01, None, "That the gain comes from relatives is not shown"),
        (-0.01, (0.07, 0.02), "one of up to +0.100 is not ruled out"),
    ],
)
def test_a_gain_is_claimed_only_where_the_films_with_relatives_show_it(
    run: RunFolder,
    config: RunConfig,
    low: float,
    related: tuple[float, float] | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gap = {"value": 0.05, "ci_low": low, "ci_high": 0.1}
    found = {"accuracy": gap, "balanced_accuracy": gap, "num_groups": 3, "n": 9}
    found["mcnemar"] = {"only_first": 2, "only_second": 1, "p_value": 0.5}
    if related:
        value, of_related = related
        found["related"] = {"n": 6, "accuracy": {**gap, "value": value, "ci_low": of_related}}
        found["unrelated"] = {"n": 3, "accuracy": {**gap, "value": 0.04, "ci_low": -0.1}}
    monkeypatch.setattr(
        "cxr_model.reports.crossval_report.leakage_estimate", lambda *_, **__: found
    )
    write_crossval(run, "cv", config, PLAN, source="phantom:30")
    assert told in run.report.read_text()


def test_folds_are_trained_on_different_films(run: RunFolder) -> None:
    folders = [run.root / "folds" / fold.name for fold in plan_folds(PLAN)]
    assert sorted(folders) == sorted((run.root / "folds").iterdir())
    assert len({sha256_file(RunFolder(folder).weights) for folder in folders}) == len(folders)


# A fold that fails at once: its process stays in the pool, and waits there for the next one.
POOL = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from cxr_model.crossval import run_fold
from cxr_model.folds import CrossvalConfig, Fold
from cxr_model.run_folder import RunFolder
with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
    run, fold = RunFolder(Path(sys.argv[1])), Fold(protocol="naive", repeat=1, number=1)
    failed = pool.submit(run_fold, run, fold, None, CrossvalConfig(), None, print)
    print(failed.exception(), flush=True)
    sys.stdin.read()
"""


def test_the_process_of_a_fold_ends_with_whoever_made_the_pool(tmp_path: Path) -> None:
    command = [sys.executable, "-c", POOL, tmp_path / "nowhere"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"nowhere" in process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    left = psutil.wait_procs(family, timeout=10)[1]
    for each in left:
        each.kill()
    assert family
    assert left == []


INTERRUPTED = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from cxr_model import crossval
from cxr_model.folds import Fold
from cxr_model.run_folder import RunFolder

def interrupted(begun):
    def read_index(_):
        begun.touch()
        raise KeyboardInterrupt
    crossval.read_index = read_index
    fold = Fold(protocol="naive", repeat=1, number=1)
    crossval.run_fold(RunFolder(begun), fold, None, None, None, None)

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        folds = [pool.submit(interrupted, Path(sys.argv[1]) / str(n)) for n in range(3)]
        print({type(fold.exception()).__name__ for fold in folds})
"""


def test_an_interrupted_pool_begins_no_other_fold(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "pool.py").write_text(INTERRUPTED)
    command = [sys.executable, tmp_path / "pool.py", tmp_path / "begun"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told == "{'BrokenProcessPool'}\n"
    assert [file.name for file in (tmp_path / "begun").iterdir()] == ["0"]


def test_the_interval_is_widened_for_films_that_trainings_share() -> None:
    values = [0.81, 0.86, 0.84, 0.9]
    spread = np.std(values, ddof=1) * np.sqrt(1 / 4 + 1 / 3)  # Nadeau & Bengio's correction
    low, high = stats.t.interval(0.95, 3, np.mean(values), spread)
    figure = mean_over_folds(values, test_to_train=1 / 3, least=(0.0, 0.0))
    assert (figure["ci_low"], figure["ci_high"]) == pytest.approx((low, min(1.0, high)))


def test_folds_that_agree_by_chance_are_no_surer_than_their_films() -> None:
    films = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(100)],
            "label": ["a", "b"] * 50,
            "predicted": ["a", "b"] * 40 + ["b", "a"] * 10,  # 8 of 10 in each of ten folds
            "group": [str(i // 2) for i in range(100)],
            "repeat": 1,
            "fold": np.tile(np.repeat(np.arange(1, 6), 2), 10),
        }
    )
    record = {"num_holdout": 20, "num_train": 80, "num_parameters": 1, "training_seconds": 1.0}
    record |= {"films_per_second": 1.0, "device": "CPU", "precision": "float32"}
    row = summarise_protocol(films, [record] * 5, ["a", "b"])
    assert set(row["accuracy"]["by_fold"]) == {0.8}
    wilson = proportion_interval(40, 50)
    for name in ("accuracy", "sensitivity"):
        found = row[name] if name == "accuracy" else row[name]["a"]
        assert found["ci_low"] == pytest.approx(wilson["ci_low"])
        assert found["ci_high"] == pytest.approx(wilson["ci_high"])
    half = (0.8 - wilson["ci_low"]) / np.sqrt(2)  # the mean of two independent rates
    assert row["balanced_accuracy"]["ci_low"] == pytest.approx(0.8 - half)


def test_faultless_folds_have_wilsons_interval() -> None:
    least = wilson_slack(np.array([1.0]), np.array([60]))
    figure = mean_over_folds([1.0, 1.0], 1, least)
    assert figure["ci_low"] == pytest.approx(proportion_interval(60, 60)["ci_low"])


def test_an_interrupted_fold_goes_on_to_the_weights_of_an_unbroken_one(
    cached_phantoms: tuple[pd.DataFrame, Path], config: RunConfig, tmp_path: Path
) -> None:
    config = replace(config, training=replace(config.training, epochs=2))
    fold, cache = plan_folds(PLAN)[0], FilmCache.open(cached_phantoms[1])
    told: dict[str, list[int]] = {"unbroken": [], "broken": []}
    weights = {}
    for name, epochs in told.items():
        run = RunFolder(tmp_path / name)
        write_index(cached_phantoms[0], run.index)

        def tell(record: EpochRecord, epochs: list[int] = epochs) -> None:
            epochs.append(record.epoch)
            if told["broken"] == [1]:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            run_fold(run, fold, config, PLAN, cache, tell)
        run_fold(run, fold, config, PLAN, cache, tell)
        weights[name] = sha256_file(RunFolder(run.folds / fold.name).weights)
    assert told == {"unbroken": [1, 2], "broken": [1, 2]}
    assert weights["broken"] == weights["unbroken"]


def test_a_fold_of_other_films_is_not_taken_for_done(
    run: RunFolder, config: RunConfig, tmp_path: Path
) -> None:
    other = RunFolder(tmp_path / "run")
    shutil.copytree(run.root, other.root)
    write_index(read_index(other.index)[1:], other.index)
    with pytest.raises(ConfigError, match="was trained on other films"):
        run_fold(other, plan_folds(PLAN)[0], config, PLAN, None, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="was trained on other films"):
        check_begun_folds(other, PLAN)
    assert drop_folds_of_other_films(other, PLAN)
    assert not other.folds.exists()


def test_folds_of_the_same_films_stay(run: RunFolder) -> None:
    check_begun_folds(run, PLAN)
    assert not drop_folds_of_other_films(run, PLAN)
    assert len(list(run.folds.iterdir())) == len(plan_folds(PLAN))


@pytest.mark.parametrize(
    ("group", "changes", "told"),
    [
        ("training", {"epochs": 9}, "training.epochs=9: run .* was begun with 1; resume with that"),
        ("data", {"size_px": 96}, "data.size_px=96"),
        ("data", {"source": "kaggle"}, "data.source=kaggle"),
        ("labels", {"drop": ["covid"]}, "labels.drop="),
        ("network", {"dropout": 0.5}, "network.dropout=0.5"),
        ("augment", {"flip": False}, "augment.flip=False"),
    ],
)
def test_folds_begun_with_settings_of_other_weights_are_not_gone_on_with(
    run: RunFolder, config: RunConfig, group: str, changes: dict[str, Any], told: str
) -> None:
    write_json(run.config, asdict(config))
    write_json(run.crossval_config, asdict(PLAN))
    changed = replace(config, **{group: replace(getattr(config, group), **changes)})
    with pytest.raises(ConfigError, match=told):
        check_begun_settings(run, changed, PLAN)


def test_folds_go_on_elsewhere_and_with_other_evidence(run: RunFolder, config: RunConfig) -> None:
    write_json(run.config, asdict(config))
    write_json(run.crossval_config, asdict(PLAN))
    moved = replace(config.training, device="cuda:1", checkpoint_minutes=1, precision="float32")
    judged = replace(config.evaluate, bootstrap_draws=500)
    check_begun_settings(run, replace(config, training=moved, evaluate=judged), PLAN)


def test_folds_dealt_out_otherwise_are_not_gone_on_with(run: RunFolder, config: RunConfig) -> None:
    write_json(run.config, asdict(config))
    write_json(run.crossval_config, asdict(PLAN))
    for changes in ({"seed": 1}, {"repeats": 2}, {"validation_fraction": 0.2}):
        with pytest.raises(ConfigError, match=f"crossval.{next(iter(changes))}=.*was begun with"):
            check_begun_settings(run, config, replace(PLAN, **changes))


@pytest.mark.parametrize("order", [("naive", "grouped"), ("grouped", "naive")])
def test_lists_of_runs_show_the_stricter_protocol(run: RunFolder, order: tuple[str, str]) -> None:
    record = read_json(run.crossval)
    record["rows"].sort(key=lambda row: order.index(row["protocol"]))
    assert crossval_headline(record)["network"].endswith("grouped")


def test_without_shared_films_the_interval_is_students() -> None:
    values = [0.81, 0.86, 0.84, 0.9]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    figure = mean_over_folds(values, test_to_train=0.0, least=(0.0, 0.0))
    assert (figure["ci_low"], figure["ci_high"]) == pytest.approx(expected)


def test_pages_of_a_single_protocol_claim_no_leakage(run: RunFolder, config: RunConfig) -> None:
    alone = replace(PLAN, protocols=("grouped",))
    record = write_crossval(run, "cv", config, alone, source="phantom:30")
    assert record["leakage_estimate"] is None
    assert "Leakage estimate" not in run.report.read_text()
