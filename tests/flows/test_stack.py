import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import httpx
import psutil
import pytest

from cxr_model.errors import StackError
from flows.embedded_store import free_port
from flows.settings import Settings, prefect_environment
from flows.stack import (
    StackInfo,
    api_with_worker,
    require_up,
    run_stack,
    running_stack,
    stack_in_use,
    stop_stack,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "state"
    return Settings(home=home, prefect_port=free_port(), store_port=free_port())


def processes_of(settings: Settings) -> list[str]:
    """Command lines of the processes started for this ``CXR_HOME``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CXR_HOME") == str(settings.home):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:  # ended, or another user's
            continue
    return found


def wait_until_gone(settings: Settings, timeout_s: float) -> list[str]:
    deadline = time.monotonic() + timeout_s
    while (left := processes_of(settings)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def listening_addresses() -> set[str]:
    """Hosts that the processes below this one listen on."""
    hosts = set()
    for process in psutil.Process().children(recursive=True):
        connections = process.net_connections("inet")
        hosts |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return hosts


@pytest.mark.slow
def test_two_commands_share_a_stack_that_leaves_nothing_behind(settings: Settings) -> None:
    told: list[str] = []
    joined, may_end = Event(), Event()
    keep = "keep_plan(Plan(schedules={'watch-dataset': '* * * * *'}))"
    subprocess.run(  # where the stack's server will find it
        [sys.executable, "-c", f"from flows.deploy import Plan, keep_plan; {keep}"],
        env={
            **os.environ,
            **prefect_environment(settings),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # beside other tests
        },
        check=True,
    )

    def tell(line: str) -> None:
        told.append(line)
        if "waiting" in line:
            may_end.set()

    def use_longer() -> bool:
        with api_with_worker(settings, tell) as api_url:
            joined.set()
            return may_end.wait(60) and httpx.get(f"{api_url}/health").is_success

    with ThreadPoolExecutor(1) as pool, api_with_worker(settings, tell) as api_url:
        other = pool.submit(use_longer)
        assert joined.wait(10)
        assert api_url == settings.local_api_url
        with httpx.Client(base_url=api_url, timeout=60) as client:
            assert client.get("/health").json() is True
            assert client.get("/deployments/name/train/train").json()["work_pool_name"] == (
                "cxr-local"
            )
            # A command is not to wait for what a schedule starts.
            assert client.post("/flow_runs/filter", json={}).json() == []
            (worker,) = client.post("/work_pools/cxr-local/workers/filter", json={}).json()
        assert worker["status"] == "ONLINE"
        assert (settings.store_dir / "credentials").stat().st_mode & 0o777 == 0o600
        assert listening_addresses() == {"127.0.0.1"}
        with pytest.raises(StackError, match="runs already; use it, or end it with 'cxr down'"):
            run_stack(settings)
    assert other.result()
    assert [line.split(" after")[0] for line in told] == [
        f"starting the local stack for this run (log: {settings.logs_dir / 'stack.log'})",
        "the local stack is up",
        "another command uses this local stack: waiting for it (Ctrl-C ends both)",
    ]
    assert processes_of(settings) == []
    assert running_stack(settings) is None
    assert not (settings.home / "stack.json").exists()
    assert "Traceback" not in (settings.logs_dir / "stack.log").read_text()
    for port in (settings.prefect_port, settings.store_port):
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of this")
def test_a_stack_whose_first_process_is_killed_leaves_no_process(settings: Settings) -> None:
    environment = {**os.environ, **prefect_environment(settings)}
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "up"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as stack:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            running = " ".join(processes_of(settings))
            if all(part in running for part in ("server start", "serve s3", "flows.worker")):
                break
            time.sleep(0.1)
        else:
            pytest.fail("the stack did not start")
        os.kill(stack.pid, signal.SIGKILL)
    assert wait_until_gone(settings, timeout_s=10) == []
    assert stop_stack(settings) == f"no local stack of {settings.home} runs"


@pytest.mark.parametrize("variable", ["CXR_PREFECT_PORT", "CXR_S3_PORT"])
def test_a_taken_port_stops_the_stack_before_it_starts(settings: Settings, variable: str) -> None:
    port = settings.prefect_port if variable == "CXR_PREFECT_PORT" else settings.store_port
    told = f"port {port} is in use by another program; end it or set {variable} to a free port"
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(StackError, match=told):
            run_stack(settings)
        with pytest.raises(StackError, match=told), api_with_worker(settings, print):
            pass
    assert running_stack(settings) is None


def test_down_tells_when_nothing_runs(settings: Settings) -> None:
    assert stack_in_use(settings) == "started for the run"
    assert stop_stack(settings) == f"no local stack of {settings.home} runs"


def test_a_stack_is_known_after_the_clock_was_set_and_a_number_used_again_is_another() -> None:
    own = psutil.Process()
    for seconds_off, is_alive in ((0, True), (-2, True), (2, True), (-3600, False)):
        info = StackInfo(pid=own.pid, started=own.create_time() + seconds_off, api_url="", store="")
        assert info.is_alive() is is_alive


@pytest.mark.parametrize(
    "text", ["", "{}", '{"pid": 1, "started": 0.5, "api_url": "", "store": ""}']
)
def test_a_record_that_a_killed_stack_left_is_no_running_stack(
    settings: Settings, text: str
) -> None:
    settings.home.mkdir()
    (settings.home / "stack.json").write_text(text)
    assert running_stack(settings) is None


class Locked(BaseHTTPRequestHandler):
    """A Prefect server that tells its health to all and the rest to those who have the password."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


def test_a_prefect_server_that_wants_a_password_is_told_with_the_variable(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Locked) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            api_url = f"http://127.0.0.1:{server.server_port}/api"
            settings = Settings(home=tmp_path, prefect_api_url=api_url)
            told = r"refuses this user \(401\); set PREFECT_API_AUTH_STRING to USER:PASSWORD"
            with pytest.raises(StackError, match=told), api_with_worker(settings, print):
                pass
        finally:
            server.shutdown()
            thread.join()


def test_a_prefect_server_of_the_users_own_that_does_not_answer_is_named(tmp_path: Path) -> None:
    api_url = f"http://127.0.0.1:{free_port()}/api"
    settings = Settings(home=tmp_path, prefect_api_url=api_url)
    told = f"PREFECT_API_URL={api_url}: no Prefect server answers .*unset the variable"
    with pytest.raises(StackError, match=told), api_with_worker(settings, print):
        pass


def test_a_server_whose_address_lacks_its_end_or_has_a_password_is_told_without_that(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path, prefect_api_url=f"http://me:secret@127.0.0.1:{free_port()}")
    with (
        pytest.raises(StackError, match=r"add the /api that an API's address ends in") as refused,
        api_with_worker(settings, print),
    ):
        pass
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_stack_that_publishes_elsewhere_is_not_used(settings: Settings) -> None:
    settings.home.mkdir()
    info = StackInfo.of(os.getpid(), settings)
    (settings.home / "stack.json").write_text(json.dumps(asdict(info)))
    other = replace(settings, bucket="radiology", endpoint_url="https://minio.test")
    told = "publishes to s3://cxr/ .* s3://radiology/ at https://minio.test; set the same ones here"
    with pytest.raises(StackError, match=told), api_with_worker(other, print):
        pass


def test_a_stack_whose_server_is_still_starting_is_told_so(settings: Settings) -> None:
    with pytest.raises(StackError, match=r"does not answer .*; it takes up to a minute"):
        require_up(StackInfo.of(os.getpid(), settings))
