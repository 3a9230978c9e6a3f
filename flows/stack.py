"""The local stack: Prefect server, object store and worker, under one process manager."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from filelock import FileLock, Timeout
from honcho.manager import Manager

from cxr_model.errors import StackError
from cxr_model.run_folder import atomic_path
from flows.embedded_store import require_free_port, store_command
from flows.settings import LOOPBACK, Settings, prefect_environment

WORK_POOL = "cxr-local"
DEPLOYMENT = "train/train"

_READY_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class StackInfo:
    """A running stack, as ``CXR_HOME/stack.json`` tells it."""

    pid: int
    started: float
    """Start of process ``pid`` in seconds since the epoch: a number used again is another one."""
    api_url: str

    @property
    def ui_url(self) -> str:
        return self.api_url.removesuffix("/api")


def running_stack(settings: Settings) -> StackInfo | None:
    """The stack of this ``CXR_HOME``, if its process lives; what a killed one left is ignored."""
    try:
        info = StackInfo(**json.loads(_info_path(settings).read_text()))
        alive = psutil.Process(info.pid).create_time() == info.started
    except (OSError, ValueError, TypeError, psutil.NoSuchProcess):
        return None
    return info if alive else None


def run_stack(settings: Settings) -> int:
    """Run the stack in the foreground until Ctrl-C, SIGTERM or the end of one of its parts.

    Returns the exit code: 0 when it was asked to end. Raises ``StackError`` when it runs
    already or a port is taken.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.home / "stack.lock", timeout=0):
            return _run_locked(settings)
    except Timeout as error:
        raise StackError(
            f"the local stack of {settings.home} runs already; use it, or end it with 'cxr down'"
        ) from error


def _run_locked(settings: Settings) -> int:
    require_free_port(settings.prefect_port, "CXR_PREFECT_PORT")
    manager = Manager()
    environment = {
        **os.environ,
        **prefect_environment(settings),
        "PREFECT_API_URL": settings.local_api_url,
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONUNBUFFERED": "1",
    }
    prefect = str(Path(sys.executable).with_name("prefect"))
    server = [prefect, "server", "start", "--host", LOOPBACK]
    _add(manager, "prefect", [*server, "--port", str(settings.prefect_port)], environment)
    if settings.uses_embedded_store:
        require_free_port(settings.store_port, "CXR_S3_PORT")
        command, keys = store_command(settings, settings.store_port)
        _add(manager, "store", command, {**os.environ, **keys})
    _add(manager, "worker", [sys.executable, "-m", "flows.worker"], environment)
    me = psutil.Process()
    info = StackInfo(pid=me.pid, started=me.create_time(), api_url=settings.local_api_url)
    with atomic_path(_info_path(settings)) as temporary:
        temporary.write_text(json.dumps(asdict(info)) + "\n")
    try:
        manager.loop()
    finally:
        _info_path(settings).unlink(missing_ok=True)
    asked_to_end = manager.returncode in (130, 143)
    return 0 if asked_to_end else 1


def _add(manager: Manager, name: str, command: list[str], environment: dict[str, str]) -> None:
    # honcho hands the line to a shell, which exec replaces by the program.
    manager.add_process(name, f"exec {shlex.join(command)}", env=environment)


def stop_stack(settings: Settings) -> str:
    """End the running stack and wait for it; returns what happened, for the user."""
    info = running_stack(settings)
    if info is None:
        return f"no local stack of {settings.home} runs"
    process = psutil.Process(info.pid)
    process.terminate()
    try:
        process.wait(timeout=_STOP_TIMEOUT_S)
    except psutil.TimeoutExpired as error:
        raise StackError(
            f"the local stack (process {info.pid}) did not end within {_STOP_TIMEOUT_S:.0f} s; "
            f"see {settings.logs_dir}"
        ) from error
    return "the local stack has ended"


@contextmanager
def api_with_worker(settings: Settings, say: Callable[[str], None]) -> Iterator[str]:
    """Give the API address of a Prefect server whose worker takes our runs.

    ``PREFECT_API_URL`` comes first, then the running local stack. Where there is neither, a
    stack is started for the block, told to ``say``, and ended after it in any case. Raises
    ``StackError`` when the server does not answer or the stack does not come up.
    """
    info = running_stack(settings)
    if settings.prefect_api_url:
        _require_healthy(settings.prefect_api_url)
        yield settings.prefect_api_url
    elif info:
        yield info.api_url
    else:
        with _own_stack(settings, say):
            yield settings.local_api_url


def _require_healthy(api_url: str) -> None:
    try:
        httpx.get(f"{api_url}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise StackError(
            f"PREFECT_API_URL={api_url}: no Prefect server answers ({reason}); "
            "start it, or unset the variable to use the local stack"
        ) from error


@contextmanager
def _own_stack(settings: Settings, say: Callable[[str], None]) -> Iterator[None]:
    require_free_port(settings.prefect_port, "CXR_PREFECT_PORT")
    if settings.uses_embedded_store:
        require_free_port(settings.store_port, "CXR_S3_PORT")
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    log = settings.logs_dir / "stack.log"
    say(f"starting the local stack for this run (log: {log})")
    started = time.monotonic()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"],
            env={**os.environ, **prefect_environment(settings)},
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the command, which then ends the stack
        ) as process,
    ):
        try:
            _wait_until_ready(settings, process, log)
            say(f"the local stack is up after {time.monotonic() - started:.0f} s")
            yield
        finally:
            process.terminate()


def _wait_until_ready(settings: Settings, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not is_ready(settings.local_api_url):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if "error:" in line), "no error told")
            raise StackError(f"the local stack did not come up ({last.strip()}); see {log}")
        time.sleep(0.2)


def is_ready(api_url: str) -> bool:
    """Whether the deployment is there and a worker listens for it."""
    try:
        with httpx.Client(base_url=api_url, timeout=5) as client:
            deployed = client.get(f"/deployments/name/{DEPLOYMENT}").is_success
            workers = client.post(f"/work_pools/{WORK_POOL}/workers/filter", json={})
    except httpx.TransportError:
        return False
    listening = workers.is_success and any(row["status"] == "ONLINE" for row in workers.json())
    return deployed and listening


def _info_path(settings: Settings) -> Path:
    return settings.home / "stack.json"
