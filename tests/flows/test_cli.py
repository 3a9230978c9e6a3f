"""Every command by itself: what it refuses, tells and lists without a running stack."""

import json
import re
import socket
from urllib.request import proxy_bypass

import pytest
from PIL import Image
from shell import QUICK, Shell
from typer.testing import CliRunner

from flows.cli import _spare_loopback_the_proxy, app


def test_wrong_input_is_refused_before_anything_starts(shell: Shell) -> None:
    one_class = shell.folder / "one"
    (one_class / "Normal").mkdir(parents=True)
    Image.new("L", (64, 64)).save(one_class / "Normal/a.png")
    (shell.folder / "empty").mkdir()
    for arguments, message in (
        (["--data", "one"], "set labels.pneumonia="),
        (["--data", "empty"], "holds no image file"),
        (["--data", "nowhere"], "does not exist"),
        (["--data", "kaggle"], "KAGGLE_API_TOKEN"),
        (["--data", "phantom:3"], "phantom.num_films=3"),
        (["--set", "training.epoch=3"], "did you mean training.epochs?"),
        (["--run-id", "no/slash"], "run id 'no/slash'"),
    ):
        assert message in shell.refused("train", *arguments)
    assert not (shell.settings.home / "prefect").exists()


@pytest.mark.slow
def test_local_runs_the_flow_in_the_process_and_its_folds_on_a_dask_cluster(shell: Shell) -> None:
    plan = ["--data", "phantom:45", "--folds", "2", "--protocol", "grouped", *QUICK]
    done = shell("crossval", "--local", "--run-id", "here", *plan, CXR_TASK_RUNNER="dask")
    assert done.returncode == 0, done.stderr
    assert "balanced accuracy" in done.stdout
    assert "distributed.scheduler" in done.stdout + done.stderr
    record = json.loads((shell.settings.runs_dir / "here" / "crossval.json").read_text())
    assert len(record["rows"][0]["accuracy"]["by_fold"]) == 2
    assert [run["run_id"] for run in json.loads(shell.ok("runs", "--json"))] == ["here"]


def test_a_port_in_use_is_told_with_its_variable(shell: Shell) -> None:
    for variable in ("CXR_PREFECT_PORT", "CXR_S3_PORT"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            told = shell.refused("train", "--preset", "smoke", **{variable: port})
            assert f"port {port} is in use" in told
            assert variable in told


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CXR_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, "CXR_S3_ENDPOINT_URL"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "no Prefect server answers"),
        ({"CXR_S3_PORT": "many"}, "CXR_S3_PORT='many': use a port number"),
    ],
)
def test_a_server_that_is_down_is_told_with_its_variable(
    shell: Shell, environment: dict[str, str], message: str
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert message in shell.refused("train", "--preset", "smoke", **environment, **keys)


def test_without_runs_the_store_says_where_to_begin(shell: Shell) -> None:
    assert "begin with 'cxr train'" in shell.ok("runs")
    assert "begin with 'cxr train'" in shell.refused("report", "latest")


def test_every_command_has_help_and_an_example(shell: Shell) -> None:
    commands = re.findall(r"^  ([a-z]+) ", shell.ok("--help").split("Commands:")[1], re.MULTILINE)
    assert len(commands) == 20
    for command in commands:
        told = CliRunner().invoke(app, [command, "--help"])
        assert told.exit_code == 0
        assert f"Example: cxr {command}" in told.output


def test_resume_takes_the_runs_own_settings_and_no_others(shell: Shell) -> None:
    for command, option, value in (
        ("train", "--set", "training.epochs=9"),
        ("train", "--preset", "best"),
        ("crossval", "--folds", "3"),
    ):
        assert f"leave {option} out" in shell.refused(command, "--resume", "gone", option, value)
    assert "neither" in shell.refused("train", "--resume", "gone")


def test_a_plan_said_again_is_the_one_that_is_kept(shell: Shell) -> None:
    assert "leave --data out" in shell.refused("deploy", "--again", "--data", "phantom")


def test_two_ports_that_are_one_are_refused(shell: Shell) -> None:
    told = shell.refused("runs", CXR_PREFECT_PORT="4444", CXR_S3_PORT="4444")
    assert "use two ports" in told


def test_a_home_that_cannot_be_made_is_told(shell: Shell) -> None:
    (shell.folder / "file").write_text("")
    for command in ("runs", "up"):
        told = shell.refused(command, CXR_HOME=str(shell.folder / "file" / "home"))
        assert "set CXR_HOME to a folder of your own" in told


def test_a_place_that_cannot_be_written_is_told_before_the_work(shell: Shell) -> None:
    (shell.folder / "file").write_text("")
    told = shell.refused("audit", "phantom:30", "--to", str(shell.folder / "file" / "audit"))
    assert "cannot be made (Not a directory); name another place" in told


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(shell: Shell) -> None:
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    assert "no run is published" in shell.refused("report", "latest", **nowhere)


def test_a_run_that_is_not_there_is_not_served_nor_its_model_rolled_back(shell: Shell) -> None:
    assert "no run is published" in shell.refused("serve", "--model", "nope", "--port", "0")
    told = shell.refused("rollback", "nope", "--reason", "none")
    assert "has no champion; promote a run with" in told
    assert "'cxr models' lists them" in told


def test_impossible_plans_and_names_are_refused(shell: Shell) -> None:
    assert "crossval.num_folds=1" in shell.refused("crossval", "--folds", "1")
    told = shell.refused("crossval", "--set", "training.num_devices=2")
    assert "training.num_devices=2: a fold trains on one device" in told
    assert "use one of train, epochs, accuracy, cache" in shell.refused("bench", "network")
    told = shell.refused("train", "--set", "gates.model=Chest X")
    assert "gates.model='Chest X': use up to 40 lower-case" in told
    assert "leave --data out" in shell.refused("bench", "scale", "--data", "phantom:60")
    assert "bench cache has no use for it; leave --steps out" in shell.refused(
        *("bench", "cache", "--steps", "9")
    )


def test_every_setting_is_listed_with_its_value(shell: Shell) -> None:
    rows = {row["key"]: row for row in json.loads(shell.ok("settings", "--json"))}
    assert rows["training.batch_size"]["value"] == 16
    assert "labels.patterns" in rows
    assert "training.epochs" in shell.ok("settings", "--preset", "seed")


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_loopback_is_asked_of_no_proxy_and_the_users_exceptions_stay(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(each, "")  # put back after the test
        monkeypatch.delenv(each)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv(name, "minio.internal")
    _spare_loopback_the_proxy()
    for host in ("minio.internal", "127.0.0.1", "localhost"):
        assert proxy_bypass(host)
    assert not proxy_bypass("example.org")
