"""The local stack: Prefect server, object store and worker, under one process supervisor."""

import fcntl
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

import httpx
import psutil
from filelock import FileLock, Timeout

from cxr_model.errors import StackError
from cxr_model.run_folder import atomic_path
from flows.embedded_store import free_port, require_free_port, store_command
from flows.settings import LOOPBACK, Settings, prefect_environment, shown
from flows.supervisor import Supervisor, end_with_parent

WORK_POOL = "cxr-local"
FOR_A_COMMAND = "CXR_STACK_FOR_A_COMMAND"
"""Set in the environment of a stack that a command started for its own duration."""

_READY_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 30.0
_CLOCK_STEP_S = 60.0  # a clock that is set shifts the start of every process by as much


@dataclass(frozen=True, kw_only=True)
class StackInfo:
    """A running stack, as ``CXR_HOME/stack.json`` tells it."""

    pid: int
    started: float
    """Start of process ``pid`` in seconds since the epoch: a number used again is another one."""
    api_url: str
    store: str
    """Where its worker publishes."""

    @classmethod
    def of(cls, pid: int, settings: Settings) -> "StackInfo":
        started = psutil.Process(pid).create_time()
        return cls(pid=pid, started=started, api_url=settings.local_api_url, store=_store(settings))

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started) < _CLOCK_STEP_S
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def _store(settings: Settings) -> str:
    location = settings.store
    return f"{location.uri()} at {shown(location.endpoint_url) if location.endpoint_url else 'AWS'}"


def running_stack(settings: Settings) -> StackInfo | None:
    """The stack of this ``CXR_HOME``, if its process lives; what a killed one left is ignored."""
    try:
        info = StackInfo(**json.loads(_info_path(settings).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return info if info.is_alive() else None


def stack_in_use(settings: Settings) -> str:
    """Which stack the next command finds, in words for a report."""
    if settings.prefect_api_url:
        return "a server of the user's own"
    return "was up" if running_stack(settings) else "started for the run"


def run_stack(settings: Settings) -> int:
    """Run the stack in the foreground until Ctrl-C, SIGTERM or the end of one of its parts.

    Returns the exit code: 0 when it was asked to end. Raises ``StackError`` when it runs
    already or a port is taken.
    """
    environment = prefect_environment(settings)  # makes the folder, or says why it cannot
    try:
        with FileLock(settings.home / "stack.lock", timeout=0):
            return _run_locked(settings, environment)
    except Timeout as error:
        raise StackError(
            f"the local stack of {settings.home} runs already; use it, or end it with 'cxr down'"
        ) from error


def _run_locked(settings: Settings, prefect_variables: dict[str, str]) -> int:
    _require_free_ports(settings)
    supervisor = Supervisor(first="worker")
    environment = {
        **os.environ,
        **prefect_variables,
        "PREFECT_API_URL": settings.local_api_url,
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONUNBUFFERED": "1",
    }
    if FOR_A_COMMAND in os.environ:  # which is not to wait for what a schedule starts
        environment["PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED"] = "false"
    prefect = str(Path(sys.executable).with_name("prefect"))
    server = [prefect, "server", "start", "--host", LOOPBACK]
    _add(supervisor, "prefect", [*server, "--port", str(settings.prefect_port)], environment)
    if settings.uses_embedded_store:
        command, keys = store_command(settings, settings.store_port)
        _add(supervisor, "store", command, {**os.environ, **keys})
    _add(supervisor, "worker", [sys.executable, "-m", "flows.worker"], environment)
    info = StackInfo.of(os.getpid(), settings)
    with atomic_path(_info_path(settings)) as temporary:
        temporary.write_text(json.dumps(asdict(info)) + "\n")
    try:
        supervisor.loop()
    finally:
        _info_path(settings).unlink(missing_ok=True)
        for relay in multiprocessing.active_children():
            relay.kill()  # only after an interrupted start; takes its program along
    asked_to_end = supervisor.returncode in (130, 143)
    return 0 if asked_to_end else 1


def _require_free_ports(settings: Settings) -> None:
    require_free_port(settings.prefect_port, "CXR_PREFECT_PORT")
    if settings.uses_embedded_store:
        require_free_port(settings.store_port, "CXR_S3_PORT")


def _add(
    supervisor: Supervisor, name: str, command: list[str], environment: dict[str, str]
) -> None:
    # honcho hands the line to a shell, which exec replaces by the program.
    supervisor.add_process(name, f"exec {shlex.join(command)}", env=environment)


def stop_stack(settings: Settings) -> str:
    """End the running stack and wait for it; returns what happened, for the user."""
    info = running_stack(settings)
    if info is None:
        return f"no local stack of {settings.home} runs"
    _end(info, settings)
    return "the local stack has ended"


def _end(info: StackInfo, settings: Settings) -> None:
    """End a stack as Ctrl-C would; one that does not obey is killed, and its parts with it."""
    process = psutil.Process(info.pid)
    process.terminate()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while info.is_alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    if info.is_alive():
        process.kill()
        _info_path(settings).unlink(missing_ok=True)


@contextmanager
def api_with_worker(settings: Settings, say: Callable[[str], None]) -> Iterator[str]:
    """Give the API address of a Prefect server whose worker takes our runs.

    ``PREFECT_API_URL`` comes first, then the running local stack. Where there is neither, a
    stack is started for the block, told to ``say``, and ended after it in any case. Raises
    ``StackError`` when the server does not answer or the stack does not come up.
    """
    if settings.prefect_api_url:
        require_healthy(settings.prefect_api_url)
        yield settings.prefect_api_url
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "stack.users").open("ab") as users, ExitStack() as ends:
        fcntl.flock(users, fcntl.LOCK_SH)  # until the file is closed
        with FileLock(settings.home / "stack.start"):  # two commands do not start two stacks
            info = running_stack(settings)
            if info is None:
                info = ends.enter_context(_own_stack(settings, say))
                ends.callback(_wait_for_other_users, users, say)
        if info.store != _store(settings):
            raise StackError(
                f"the running local stack publishes to {info.store}, this shell's variables say "
                f"{_store(settings)}; set the same ones here, or end it with 'cxr down' and start "
                "it with these"
            )
        if not is_ready(info):
            _wait_until_ready(info, None)
        yield info.api_url


def _wait_for_other_users(users: BinaryIO, say: Callable[[str], None]) -> None:
    """A stack started for one command also serves those that came later: they may finish."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another command uses this local stack: waiting for it (Ctrl-C ends both)")
        fcntl.flock(users, fcntl.LOCK_EX)


def require_healthy(api_url: str) -> None:
    """Raise ``StackError`` unless the user's own Prefect server answers, and answers this user."""
    if reason := _silence(api_url):
        has_end = api_url.endswith("/api")
        remedy = "start it" if has_end else "add the /api that an API's address ends in"
        raise StackError(
            f"PREFECT_API_URL={shown(api_url)}: no Prefect server answers ({reason}); {remedy}, or "
            "unset the variable to use the local stack"
        )
    _require_access(api_url)


def require_up(info: StackInfo) -> None:
    """Raise ``StackError`` unless the server of the running stack answers."""
    if reason := _silence(info.api_url):
        raise StackError(
            f"{info.api_url}: the local stack's server does not answer ({reason}); it takes up to "
            "a minute to start, so try again, or see what 'make up' prints"
        )


def _silence(api_url: str) -> str:
    """Why a server is not healthy; empty where it is."""
    try:
        httpx.get(f"{api_url}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def _require_access(api_url: str) -> None:
    """Health is told to everyone. Asked by Prefect's client, which knows all places of its keys."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise StackError(
            f"PREFECT_API_URL={shown(api_url)}: refuses this user ({error.response.status_code}); "
            "set PREFECT_API_AUTH_STRING to USER:PASSWORD of the server, or PREFECT_API_KEY"
        ) from error


@contextmanager
def own_server(settings: Settings) -> Iterator[str]:
    """Give the API address of a Prefect server without worker or schedules, for the block.

    Its port is any that is free. Raises ``StackError`` when it does not come up.
    """
    api_url = f"http://{LOOPBACK}:{(port := free_port())}/api"
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    log = settings.logs_dir / f"server-{port}.log"
    prefect = str(Path(sys.executable).with_name("prefect"))
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [prefect, "server", "start", "--host", LOOPBACK, "--port", str(port), "--no-ui"],
            env={
                **os.environ,
                "PREFECT_API_URL": api_url,
                "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
            },
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the flow, which tells the server of it
            preexec_fn=partial(end_with_parent, signal.SIGTERM),  # noqa: PLW1509 (one system call)
        ) as process,
    ):
        try:
            _wait_for_server(api_url, process, log)
            yield api_url
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    log.unlink()  # all went well


def _wait_for_server(api_url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while _silence(api_url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"the Prefect server did not come up ({_last_error(log)}); see {log}")
        time.sleep(0.2)


@contextmanager
def _own_stack(settings: Settings, say: Callable[[str], None]) -> Iterator[StackInfo]:
    _require_free_ports(settings)
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    log = _log_path(settings)
    say(f"starting the local stack for this run (log: {log})")
    started = time.monotonic()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"],
            env={**os.environ, **prefect_environment(settings), FOR_A_COMMAND: "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the command, which then ends the stack
            preexec_fn=partial(end_with_parent, signal.SIGTERM),  # noqa: PLW1509 (one system call)
        ) as process,
    ):
        info = StackInfo.of(process.pid, settings)
        try:
            _wait_until_ready(info, log)
            say(f"the local stack is up after {time.monotonic() - started:.0f} s")
            yield info
        finally:
            if info.is_alive():
                _end(info, settings)


def _wait_until_ready(info: StackInfo, log: Path | None) -> None:
    """``log``: of a stack that this command started; any other tells its own terminal."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not is_ready(info):
        if not info.is_alive() or time.monotonic() > deadline:
            told = f" ({_last_error(log)}); see {log}" if log else "; see what 'make up' prints"
            raise StackError(f"the local stack did not come up{told}")
        time.sleep(0.2)


def is_ready(info: StackInfo) -> bool:
    """Whether a worker of this very stack listens; it starts after the deployments are made."""
    try:
        answer = httpx.post(f"{info.api_url}/work_pools/{WORK_POOL}/workers/filter", json={})
    except httpx.TransportError:
        return False
    # A worker that was killed stays listed as online for a while: its heartbeat is old.
    return answer.is_success and any(
        datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() > info.started
        for worker in answer.json()
    )


def _last_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    told = [line.strip() for line in lines if "error" in line.lower()]
    return told[-1] if told else "no error told"


def _log_path(settings: Settings) -> Path:
    """Output of a stack that a command started for its own duration."""
    return settings.logs_dir / "stack.log"


def _info_path(settings: Settings) -> Path:
    return settings.home / "stack.json"
