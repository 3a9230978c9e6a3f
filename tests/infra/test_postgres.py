"""The compose file's stack without Docker: its services as processes, on a real PostgreSQL."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from compose_processes import ComposeProcesses, postgres_programs, running_postgres, wait_for

PROGRAMS = postgres_programs()
TRAINING = [
    *("train", "--data", "phantom:60", "--preset", "smoke", "--run-id", "restarted"),
    *("--set", "data.size_px=64", "--set", "training.epochs=40"),
    *("--set", "explain.occlusion_window_px=32", "--set", "explain.occlusion_stride_px=16"),
    *("--set", "evaluate.bootstrap_draws=200"),
]


@pytest.fixture
def stack() -> Iterator[ComposeProcesses]:
    """With its database; the other services are started by the test."""
    assert PROGRAMS is not None
    # Not below pytest's own folder, which none but its owner can enter.
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        (folder / "postgres").mkdir()
        stack = ComposeProcesses(folder)
        password = stack.secret("postgres_password")
        with running_postgres(PROGRAMS, folder / "postgres", stack.ports["postgres"], password):
            yield stack


@contextmanager
def server(stack: ComposeProcesses) -> Iterator[None]:
    with stack.running("prefect"):
        wait_for(lambda: answers(f"{stack.api_url}/health"), 60, lambda: stack.log("prefect"))
        yield


@contextmanager
def training(stack: ComposeProcesses) -> Iterator["subprocess.Popen[bytes]"]:
    """``docker compose exec worker with-secrets cxr train ...``"""
    command = stack.with_worker_settings(sys.executable, "-m", "flows.cli", *TRAINING)
    with (
        (stack.folder / "train.log").open("wb") as log,
        subprocess.Popen(
            command, env=stack.environment("worker"), stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


def flow_runs(stack: ComposeProcesses) -> list[dict[str, Any]]:
    user, _, password = stack.secret("prefect_auth").partition(":")
    only = {"flow_runs": {"name": {"any_": ["train-restarted"]}}}  # not what schedules made
    answer = httpx.post(f"{stack.api_url}/flow_runs/filter", json=only, auth=(user, password))
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


@pytest.mark.slow
@pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL server is installed")
def test_a_run_outlives_a_restart_of_the_server(stack: ComposeProcesses) -> None:
    stack.run("migrate")
    with ExitStack() as ends:
        with server(stack):
            assert httpx.post(f"{stack.api_url}/flow_runs/filter", json={}).status_code == 401
            ends.enter_context(stack.running("store"))
            ends.enter_context(stack.running("worker"))  # makes the pool where it is first
            stack.run("deploy")
            command = ends.enter_context(training(stack))
            wait_for(lambda: "epoch 3/40" in stack.log("train"), 90, lambda: stack.log("worker"))
        assert not answers(f"{stack.api_url}/health")
        with server(stack):
            assert command.wait(120) == 0, stack.log("train") + stack.log("worker")
            (run,) = flow_runs(stack)
            assert (run["state_name"], run["run_count"]) == ("Completed", 1)
            assert answers(f"http://127.0.0.1:{stack.ports['health']}/health")
            ends.close()  # a worker without a server would not end
    manifest = stack.folder / "data/cxr/runs/restarted/MANIFEST.json"
    assert manifest.exists()
