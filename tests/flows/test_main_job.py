"""The main job as a user runs it: real processes, a real stack, a real bucket."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from shell import QUICK, Shell, wait_until
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows.stack import running_stack

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "flows.cli", "train"]
EPOCHS = 20
LONG = [*QUICK, "--set", f"training.epochs={EPOCHS}", "--set", "training.batch_size=4"]
"""A training of some seconds behind its first epoch: one that is killed then is not at its end."""


@pytest.fixture(scope="module")
def published(stack: Shell) -> Path:
    """A run through the worker, fetched back from the bucket."""
    told = stack.ok("train", "--data", "phantom:45", "--run-id", "first", *LONG)
    closing = told[told.index("\nrun ") :]
    assert re.search(r"accuracy +\d\.\d{3} \(\d\.\d\d–\d\.\d\d\) on 9 films", closing)
    assert re.search(r"\ngates +leakage passed, [A-Za-z ,]+\n", closing)
    assert "s3://cxr/runs/first/report.html" in closing
    assert f"http://127.0.0.1:{stack.settings.prefect_port}/runs/flow-run/" in closing
    return Path(stack.ok("report", "latest", "--to", "fetched").strip()).parent


def test_a_published_run_has_every_file(published: Path) -> None:
    for name in (
        *("report.html", "metrics.json", "predictions.csv", "history.csv", "config.json"),
        *("data/index.csv", "data/splits.csv", "model/model.safetensors", "model/model.json"),
        *("attributions/index.csv", "figures/confusion-matrix.svg"),
    ):
        assert (published / name).stat().st_size > 0, name
    assert list((published / "tensorboard").glob("events.out.tfevents.*"))


def test_figures_recomputed_from_predictions_agree(published: Path) -> None:
    holdout = json.loads((published / "metrics.json").read_text())["holdout"]
    films = pd.read_csv(published / "predictions.csv").query("split == 'holdout'")
    classes = holdout["classes"]
    expected = confusion_matrix(films["label"], films["predicted"], labels=classes)
    assert holdout["confusion_matrix"] == expected.tolist()
    assert holdout["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(films["label"], films["predicted"])
    )
    for name in classes:
        auroc = roc_auc_score(films["label"] == name, films[f"probability_{name}"])
        assert holdout["per_class"][name]["auroc"]["value"] == pytest.approx(auroc)


def test_the_bucket_holds_the_manifest_and_an_index_page(stack: Shell, published: Path) -> None:
    bucket = stack.settings.store_dir / "data" / "cxr"
    manifest = json.loads((bucket / "runs/first/MANIFEST.json").read_text())
    for record in manifest["objects"]:
        content = (published / record["key"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (
            record["size"],
            record["sha256"],
        )
    assert 'href="runs/first/report.html"' in (bucket / "index.html").read_text()


def test_prefect_shows_the_run_with_its_tasks_and_artifacts(stack: Shell, published: Path) -> None:
    assert published.name == "first"
    with httpx.Client(base_url=stack.settings.local_api_url, timeout=150) as client:
        runs = client.post("/flow_runs/filter", json={}).json()
        states = {run["name"]: run["state_type"] for run in runs}
        artifacts = client.post("/artifacts/latest/filter", json={}).json()
        tasks = client.post("/task_runs/filter", json={}).json()
    assert states["train-first"] == "COMPLETED"
    kinds = {artifact["key"]: artifact["type"] for artifact in artifacts}
    assert kinds["summary"] == "markdown"
    assert kinds["holdout"] == "table"
    assert kinds["confusion-matrix"] == "image"
    assert kinds["training"] == "progress"
    assert kinds["stages"] == "table"
    assert "report" in kinds
    assert len(tasks) == 20
    live = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert live["training"] == 100
    assert f"| epoch | {EPOCHS} of {EPOCHS} |" in live["training-progress"]
    assert "| time left | 0:00 |" in live["training-progress"]


@contextmanager
def training_begun(stack: Shell, run_id: str) -> Iterator["subprocess.Popen[str]"]:
    """``cxr train`` on a worker, with its first checkpoint in the bucket."""
    with subprocess.Popen(
        [*COMMAND, "--data", "phantom:45", "--run-id", run_id, *LONG],
        cwd=stack.folder,
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_until((bucket_of(stack) / f"checkpoints/{run_id}/latest.json").exists)
        yield process


def resumed_after(told: str) -> int:
    """The epoch that a training went on behind; of the last one nothing would be left to do."""
    (epoch,) = re.findall(r"resuming after epoch (\d+), step \d+", told)
    return int(epoch)


def bucket_of(stack: Shell) -> Path:
    return stack.settings.store_dir / "data" / "cxr"


def weights_of(stack: Shell, run_id: str) -> bytes:
    return (bucket_of(stack) / f"runs/{run_id}/model/model.safetensors").read_bytes()


def test_a_killed_run_starts_anew_by_itself_and_ends_with_the_same_weights(
    stack: Shell, published: Path
) -> None:
    with training_begun(stack, "broken-off") as process:
        stack.kill_flow_runs()
        shutil.rmtree(stack.settings.runs_dir / "broken-off")  # as on another machine
        told, _ = process.communicate(timeout=600)
        assert process.returncode == 0, told
    assert "it is to be started anew" in told
    assert "phantom:45: reused" in told
    assert "0 films decoded, 45 reused" in told
    assert "resuming from step-" in told
    assert 1 <= resumed_after(told) < EPOCHS
    # The same films, weights and settings: what the first run found is fetched.
    for stage in ("hygiene", "reliability", "inputs", "explain"):
        assert f"{stage}: from the results cache" in told
    begun_anew = bucket_of(stack) / "runs/broken-off"
    for evidence in (published / "evidence").iterdir():
        kept = begun_anew / "evidence" / evidence.name
        assert kept.read_bytes() == evidence.read_bytes()
    fetched = json.loads((begun_anew / "metrics.json").read_text())["timing"]["fetched"]
    assert fetched == ["hygiene", "reliability", "explain"]
    assert weights_of(stack, "broken-off") == weights_of(stack, published.name)
    board = EventAccumulator(str(bucket_of(stack) / "runs/broken-off/tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train_loss")] == list(range(1, EPOCHS + 1))
    assert not list((bucket_of(stack) / "checkpoints").rglob("*.pt"))
    runs = json.loads(stack.ok("runs", "--json"))
    assert [run["run_id"] for run in runs] == ["broken-off", "first"]


def test_a_run_that_stays_ended_goes_on_when_asked_to(stack: Shell, published: Path) -> None:
    with training_begun(stack, "stopped") as process:
        stack.kill_flow_runs()
        with httpx.Client(base_url=stack.settings.local_api_url, timeout=150) as client:
            name = {"name": {"any_": ["train-stopped"]}}

            def crashed() -> str:
                (run,) = client.post("/flow_runs/filter", json={"flow_runs": name}).json()
                return str(run["id"]) if run["state_type"] == "CRASHED" else ""

            wait_until(crashed)
            cancelled = {"state": {"type": "CANCELLED", "name": "Cancelled"}, "force": True}
            client.post(f"/flow_runs/{crashed()}/set_state", json=cancelled).raise_for_status()
        told, _ = process.communicate(timeout=600)  # SQLite was seen locked for a minute
        assert process.returncode == 2, told
        assert "was cancelled" in told
    told = stack.ok("train", "--resume", "stopped")
    assert "resuming from step-" in told
    assert 1 <= resumed_after(told) < EPOCHS
    assert weights_of(stack, "stopped") == weights_of(stack, published.name)
    refusal = stack.refused("train", "--resume", "stopped")
    assert "run stopped: is published, " in refusal
    assert "'cxr promote stopped --reason ...' decides" in refusal


def test_folds_are_task_runs_and_a_crossval_is_published_as_a_run_is(stack: Shell) -> None:
    told = stack.ok(
        *("crossval", "--data", "phantom:45", "--folds", "2", "--run-id", "folds", *QUICK),
        *("--set", "training.epochs=1"),
    )
    assert "cxresnet, 2 folds, grouped" in told
    folder = Path(stack.ok("report", "folds", "--to", "fetched").strip()).parent
    record = json.loads((folder / "crossval.json").read_text())
    assert [row["protocol"] for row in record["rows"]] == ["naive", "grouped"]
    with httpx.Client(base_url=stack.settings.local_api_url, timeout=150) as client:
        tasks = client.post("/task_runs/filter", json={}).json()
    done = {task["name"] for task in tasks if task["name"].startswith("fold-")}
    assert done == {"fold-naive-1-1", "fold-naive-1-2", "fold-grouped-1-1", "fold-grouped-1-2"}


def test_a_mistake_found_on_the_worker_is_one_line_here(stack: Shell) -> None:
    told = stack.refused(
        *("train", "--data", "phantom:45", "--run-id", "broken", *QUICK),
        *("--set", "phantom.num_unreadable=9"),
    )
    assert "data.max_unreadable_fraction" in told
    assert not (stack.settings.store_dir / "data/cxr/runs/broken").exists()


def test_predictions_come_as_table_csv_and_json(stack: Shell, published: Path) -> None:
    index = pd.read_csv(published / "data/index.csv")
    films = next((stack.settings.data_dir / "phantom").iterdir())
    files = [films / path for path in index["path"][:2]]
    as_json = json.loads(stack.ok("predict", *files, "--model", "first", "--json"))
    assert as_json["run_id"] == "first"
    rows = list(
        csv.DictReader(stack.ok("predict", *files, "--model", "first", "--csv").splitlines())
    )
    for row, film in zip(rows, as_json["films"], strict=True):
        assert row["predicted"] == film["predicted"]
        assert float(row["probability_covid"]) == pytest.approx(film["probability_covid"])
    assert rows[0]["predicted"] in stack.ok("predict", *files)


def test_a_text_file_is_no_film(stack: Shell, published: Path) -> None:
    assert published.exists()
    (stack.folder / "notes.jpg").write_text("no film")
    assert "notes.jpg: cannot be decoded" in stack.refused("predict", "notes.jpg")


def test_an_address_of_the_report_opens_it(stack: Shell, published: Path) -> None:
    address = stack.ok("report", "first", "--url").strip()
    answer = httpx.get(address)
    assert answer.content == (published / "report.html").read_bytes()
    assert answer.headers["content-type"].startswith("text/html")


def test_doctor_finds_the_running_stack(stack: Shell) -> None:
    found: dict[str, Any] = {row["name"]: row for row in json.loads(stack.ok("doctor", "--json"))}
    assert found["prefect"]["state"] == found["bucket"]["state"] == "ok"
    assert found["kaggle"]["state"] == "absent"
    assert found["kaggle"]["remedy"]


def test_up_says_that_the_stack_runs_already(stack: Shell) -> None:
    assert running_stack(stack.settings)
    assert "runs already" in stack.refused("up")


def test_a_run_is_measured_from_the_command_to_its_end(stack: Shell) -> None:
    told = stack.ok("bench", "start", "--data", "phantom:45", "--run-id", "m", *QUICK, "--json")
    found = json.loads(told)
    assert found["stack"] == "was up"
    *rows, total = found["rows"]
    assert [row["stage"] for row in rows][1:-2] == [
        *("ingest", "index", "hygiene", "split", "cache", "train", "evaluate", "reliability"),
        *("explain", "report", "publish", "promote"),
    ]
    assert all(row["orchestration_s"] >= 0 for row in rows)
    seconds = found["seconds"]
    assert total["work_s"] + total["orchestration_s"] == pytest.approx(seconds["wall"], abs=0.2)
    assert rows[0]["orchestration_s"] < seconds["to_first_step"] < seconds["wall"]
