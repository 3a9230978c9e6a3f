"""The benchmarks run, and their ratios are of the rates beside them; how fast is not tested."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import crossval_table
from benchmarks.cache_speed import measure_cache
from benchmarks.crossval_bare import crossvalidate, prepare_films
from benchmarks.epochs_speed import measure_epochs
from benchmarks.explain_speed import measure_explanations
from benchmarks.growth import measure_growth
from benchmarks.orchestration import by_stage, measure_orchestration
from benchmarks.plots import growth_curves, training_rates
from benchmarks.predict_speed import measure_predictions
from benchmarks.prepare import Prepared, prepare
from benchmarks.rounds import films_per_second
from benchmarks.serve_speed import measure_serving
from benchmarks.shortcut_alarms import measure_alarms
from benchmarks.time_to_accuracy import measure_time_to_accuracy
from benchmarks.train_speed import Turns, measure_training
from cxr_model.config import ExplainConfig, NetworkConfig, RunConfig
from cxr_model.data_config import DataConfig, PhantomConfig
from cxr_model.errors import ConfigError, DataError
from cxr_model.folds import CrossvalConfig
from cxr_model.network import build_network, network_arguments
from cxr_model.presets import smoke
from cxr_model.reports.figures import svg_bytes
from cxr_model.run_folder import read_json, write_json
from cxr_model.serving import load_to_serve
from flows.bench import run_benchmark
from tests.flows.http_service import Shelf, client_of, wait_for_model
from tests.tiny_model import film_bytes

CONFIG = replace(
    smoke(),
    data=DataConfig(size_px=64, source="phantom:18"),
    phantom=PhantomConfig(num_films=18),
    training=replace(smoke().training, batch_size=4),
    explain=ExplainConfig(occlusion_window_px=32, occlusion_stride_px=16),
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(CONFIG, tmp_path_factory.mktemp("work"))


def test_rates_are_medians_and_the_first_round_is_dropped() -> None:
    calls: list[str] = []

    def contestant(name: str, films: int) -> int:
        calls.append(name)
        return films

    rates = films_per_second(
        {"a": lambda: contestant("a", 1), "b": lambda: contestant("b", 1000)}, rounds=2
    )
    assert calls == ["a", "b"] * 3
    assert rates["b"] > rates["a"] > 0


def test_training_is_put_beside_the_references_and_the_limit(films: Prepared) -> None:
    found = measure_training(films, CONFIG, rounds=1, steps=1)
    rates, ratios = found["films_per_s"], found["ratios"]
    assert ratios["vs_seed"] == pytest.approx(
        rates["cxresnet, here"] / rates["seed's way"], rel=0.01
    )
    assert {"vs_seed", "vs_torchvision", "of_limit"} <= set(ratios)
    assert json.loads(json.dumps(found)) == found
    assert b"<svg" in svg_bytes(training_rates(found))


class Loader:
    """A DataLoader of as many workers as a data-centre machine has."""

    num_workers, prefetch_factor = 16, 2

    def __init__(self) -> None:
        self.num_taken = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.num_taken += 1
            yield self.num_taken


def test_a_turn_of_many_workers_outlasts_what_they_decode_at_once() -> None:
    """The first batches of 16 workers come together, after the time that one takes for one."""
    loader = Loader()
    turns = Turns(loader, steps=4)  # type: ignore[arg-type]
    turns.drain()
    assert loader.num_taken == 32
    assert len(list(turns.batches())) == 32
    loader = Loader()
    loader.num_workers = 1
    assert len(list(Turns(loader, steps=4).batches())) == 4  # type: ignore[arg-type]


def test_cache_and_explanations_are_put_beside_theirs(films: Prepared) -> None:
    cache = measure_cache(films, DataConfig(size_px=64), rounds=1)
    assert cache["num_films"] == 18
    assert set(cache["films_per_s"]) == {"here", "limit", "seed's way"}
    arguments = network_arguments(
        NetworkConfig(widths=(8, 8, 16), depths=(1,)), in_channels=1, num_classes=3
    )
    network = build_network(arguments, torch.Generator().manual_seed(0)).eval()
    found = measure_explanations(network, torch.randn(2, 1, 64, 64), CONFIG.explain, rounds=1)
    assert found["windows_per_film"] == 9
    assert found["ratios"]["occlusion_of_forward"] > 0


def test_films_in_colour_are_explained_too() -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, color="rgb"))
    found = run_benchmark("explain", config, rounds=1, steps=1, times=())
    assert found["films_per_s"]["occlusion, here"] > 0


@pytest.mark.slow
def test_the_service_is_put_beside_the_forward_pass(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    found = shelf.put(0)
    model = load_to_serve(found.fetch(), torch.device("cpu"))
    with client_of(shelf) as client:
        wait_for_model(client)
        films = [film_bytes(number) for number in range(4)]
        measured = measure_serving(str(client.base_url), films, model, rounds=1)
    rates, ratios = measured["films_per_s"], measured["ratios"]
    assert ratios["most_clients_of_forward"] == pytest.approx(
        rates["served, 16 clients"] / rates["forward, batch 16"], abs=0.002
    )
    for row, clients in zip(measured["rows"], (1, 4, 16), strict=True):
        assert row["clients"] == clients
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert 1 <= row["films_per_pass"] <= min(clients, 16)
    assert json.loads(json.dumps(measured)) == measured


def test_scoring_is_put_beside_its_halves_and_its_memory_is_watched(
    films: Prepared, tmp_path: Path
) -> None:
    found = measure_predictions(films, CONFIG, tmp_path, [1, 3], rounds=1)
    assert set(found["films_per_s"]) == {"here", "decoding", "forward"}
    assert [row["num_films"] for row in found["rows"]] == [18, 54]
    assert all(row["peak_mb"] > 50 for row in found["rows"])
    assert found["ratios"]["of_limit"] > 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_whole_training_is_timed_and_validated(
    films: Prepared, tmp_path: Path, times: int
) -> None:
    found = measure_epochs(films, CONFIG, tmp_path, times)
    assert found["num_train"] + found["num_validation"] == 18 * times
    assert found["seconds"] == pytest.approx(
        found["ratios"]["seconds_per_epoch"] * CONFIG.training.epochs, abs=0.02
    )


def test_the_seeds_way_and_ours_are_asked_about_the_same_films(
    films: Prepared, tmp_path: Path
) -> None:
    found = measure_time_to_accuracy(films, CONFIG, tmp_path, seed_epochs=1)
    assert found["num_train"] + found["num_held_out"] == 18
    last_s, last = found["course"][-1]
    assert found["seconds"]["cxresnet, here"] == last_s
    assert found["reached"] == (last >= found["balanced_accuracy"]["seed's way"])


@pytest.mark.slow
def test_growth_copies_films_that_count_as_others(films: Prepared) -> None:
    found = measure_growth(films, CONFIG, [1, 3])
    assert [row["num_films"] for row in found["rows"]] == [18, 54]
    assert all(row["peak_mb"] > 50 for row in found["rows"])
    curves = growth_curves(found)
    svg_bytes(curves)  # draws it
    labels = [label.get_text() for axes in curves.axes for label in axes.get_yticklabels()]
    assert labels
    assert not any("$" in label for label in labels), "text is not parsed as mathematics here"


@pytest.mark.slow
def test_a_machine_without_prefect_writes_what_the_flow_writes(
    films: Prepared, tmp_path: Path
) -> None:
    out = tmp_path / "bare"
    plan = CrossvalConfig(num_folds=2, protocols=("grouped",))
    source = tmp_path / "films"
    shutil.copytree(films.root, source)
    prepare_films(source, out, CONFIG)
    shutil.rmtree(source)  # what is prepared can be taken to a machine without the films
    crossvalidate(out, prepare_films(source, out, CONFIG), CONFIG, plan, num_processes=1)
    record = read_json(out / "crossval.json")
    assert len(record["rows"][0]["accuracy"]["by_fold"]) == 2
    assert len(pd.read_csv(out / "predictions-grouped.csv")) == 18


def test_folds_of_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    other = replace(CONFIG, network=replace(CONFIG.network, name="resnet18"))
    write_json(tmp_path / "config.json", asdict(other))
    with pytest.raises(ConfigError, match="is of other settings; use another folder"):
        prepare_films(tmp_path, tmp_path, CONFIG)
    with pytest.raises(DataError):  # its own settings are no obstacle, but there are no films
        prepare_films(tmp_path, tmp_path, other)


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    config: RunConfig = replace(CONFIG, data=DataConfig(source="kaggle"))
    with pytest.raises(DataError, match=r"benchmarks take a folder or phantom"):
        prepare(config, tmp_path)


def test_a_row_of_the_table_is_replaced_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crossval_table, "RESULTS", tmp_path)
    monkeypatch.setattr(crossval_table, "TABLE", tmp_path / "crossval-cxr3.json")
    for model, right in (("cxresnet", 0.9), ("resnet18", 0.6), ("cxresnet", 0.8)):
        crossval_table.add_run(_finished_run(tmp_path / "run", model, right), "cxr crossval")
    rows = read_json(tmp_path / "crossval-cxr3.json")["rows"]
    assert [(row["model"], row["accuracy"]["mean"]) for row in rows] == [
        ("cxresnet", 0.8),
        ("resnet18", 0.6),
    ]
    crossval_table.print_table(rows, draws=100)
    told = capsys.readouterr().out
    assert "naive: cxresnet minus resnet18, accuracy +0.2" in told
    theirs = tmp_path / "crossval-cxr3-resnet18-naive.csv"
    table = pd.read_csv(theirs)
    table.assign(fold=table["fold"] % 2 + 1).to_csv(theirs, index=False)
    crossval_table.print_table(rows, draws=100)
    assert "resnet18 (other folds: train one of them anew), accuracy" in capsys.readouterr().out


def _finished_run(root: Path, model: str, share_right: float) -> Path:
    num, classes = 60, ["normal", "covid"]
    right = [i < share_right * num for i in range(num)]
    label = [classes[i % 2] for i in range(num)]
    predicted = [classes[(i + (not right[i])) % 2] for i in range(num)]
    table = pd.DataFrame({"path": range(num), "label": label, "predicted": predicted, "group": "g"})
    table["probability_normal"] = [float(name == "normal") for name in predicted]
    table["probability_covid"] = 1 - table["probability_normal"]
    table["fold"] = table["path"] % 2 + 1
    table = pd.concat([table.assign(repeat=repeat) for repeat in (1, 2)])
    root.mkdir(exist_ok=True)
    table.to_csv(root / "predictions-naive.csv", index=False)
    figure = {"mean": share_right, "ci_low": 0.0, "ci_high": 1.0, "by_fold": [share_right]}
    row = {"model": model, "protocol": "naive", "num_parameters": 1, "training_seconds": 1.0}
    row["run_id"] = "r"
    row |= dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1"), figure)
    row["sensitivity"] = dict.fromkeys(classes, figure)
    record = {
        "rows": [row],
        "data": {"classes": classes, "digest": "d"},
        "environment": {"git_revision": "r"},
    }
    write_json(root / "crossval.json", record)
    write_json(root / "config.json", {"training": {"epochs": 1}, "data": {"size_px": 64}})
    return root


def test_a_run_that_has_a_folder_is_not_measured_again(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(ConfigError, match="is there already; use another"):
        measure_orchestration(["--data", "phantom:15"], tmp_path, "old", stack="was up")


def test_each_stage_has_its_work_and_the_sum_is_the_wall_time() -> None:
    timing = {
        "began": 1045.0,
        "ended": 1491.0,
        "stages": [
            {"stage": "index", "work_s": 2.2, "orchestration_s": 0.3},
            {"stage": "train", "work_s": 400.0, "orchestration_s": 30.0},
        ],
    }
    found = by_stage(timing, began=1000.0, ended=1498.0)
    rows = {row["stage"]: (row["work_s"], row["orchestration_s"]) for row in found["rows"]}
    assert rows == {
        "command, stack, worker and flow come up": (0, 45),
        "index": (2.2, 0.3),
        "train": (400, 30),
        "between the stages": (0, 13.5),
        "flow, worker, stack and command end": (0, 7),
        "sum": (402.2, 95.8),
    }
    assert found["seconds"] == {"wall": 498, "orchestration": 95.8, "goal": 24.9}
    assert found["ratios"]["orchestration_share"] == pytest.approx(95.8 / 498, abs=1e-4)
    assert by_stage(timing, began=1000, ended=1300)["seconds"]["goal"] == 20


def test_alarms_are_counted_on_clean_films_and_on_marked_ones() -> None:
    found = measure_alarms(range(10, 11), "covid", num_films=90, size_px=32, epochs=1)
    assert [(row["seed"], row["marker"]) for row in found["rows"]] == [(10, None), (10, "covid")]
    clean, marked = found["rows"]
    assert clean["alarms"] == []
    assert marked["alarms"]
    assert [found["alarms"][kind]["value"] for kind in ("clean", "marked")] == [0.0, 1.0]
    json.dumps(found, allow_nan=False)
