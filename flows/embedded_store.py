"""The embedded object store: ``rclone serve s3`` on loopback over a folder of ``CXR_HOME``."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from cxr_model.errors import ConfigError, CxrError, StackError
from flows.settings import EMBEDDED_BUCKET, LOOPBACK, Settings
from flows.supervisor import end_with_parent
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation, read_keys

_START_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 2.0


def write_credentials(path: Path) -> None:
    """Make keys on the first start, for their owner's eyes only; later ones find them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: cannot be written ({error.strerror}); set CXR_HOME to a folder of "
            "your own"
        ) from error
    keys = (
        "[default]\n"
        f"aws_access_key_id = {secrets.token_hex(10).upper()}\n"
        f"aws_secret_access_key = {secrets.token_hex(20)}\n"
    )
    temporary = path.with_name(f".credentials.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(keys)
        os.link(temporary, path)  # fails where another process was first: then its keys count
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)


def store_command(settings: Settings, port: int) -> tuple[list[str], dict[str, str]]:
    """What to run, and the environment that hands it the keys: a command line can be seen."""
    location = settings.embedded_store(port)
    assert location.credentials_file is not None
    if not location.credentials_file.exists():
        write_credentials(location.credentials_file)
    data = settings.store_dir / "data"
    (data / EMBEDDED_BUCKET).mkdir(parents=True, exist_ok=True)  # rclone's buckets are folders
    keys = read_keys(location.credentials_file)
    command = [
        str(Path(sys.executable).with_name("rclone")),
        "serve",
        "s3",
        "--addr",
        f"{LOOPBACK}:{port}",
        "--config",
        "",
        "--dir-cache-time",
        # Several stores serve this folder: what another one wrote must be seen soon. At 0
        # rclone's cleaning timer runs without a pause and takes a core.
        "20ms",
    ]
    # rclone reads a list of pairs as CSV: the quotes keep this pair together.
    environment = {"RCLONE_AUTH_KEY": f'"{keys[0]},{keys[1]}"'}
    return [*command, "--log-level", "NOTICE", str(data)], environment


@contextmanager
def store_for(settings: Settings, port: int | None = None) -> Iterator[StoreLocation]:
    """The bucket of the settings; the embedded one is started for the block where it is down.

    A store started here listens on ``port``, or on a free one: it is this command's own and
    never shared, so that no other command loses it when this one ends. Any number of them
    serve the same folder.
    """
    if not settings.uses_embedded_store or _answers(settings.store):
        yield settings.store
    else:
        with _own_store(settings, port or free_port()) as location:
            yield location


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def require_free_port(port: int, variable: str) -> None:
    """Raise ``StackError`` where another program listens on ``port``."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as error:
            raise StackError(
                f"port {port} is in use by another program; end it or set {variable} to a free port"
            ) from error


def _answers(location: StoreLocation) -> bool:
    """Whether the store there is ours: it takes our keys."""
    if location.credentials_file is None or not location.credentials_file.exists():
        return False
    try:
        # A program on our port that never speaks would hold boto3 for minutes.
        httpx.get(str(location.endpoint_url), timeout=_ANSWER_TIMEOUT_S)
        with ObjectStore(location) as store:
            store.exists("index.html")  # the least that has to be signed
    except (CxrError, httpx.HTTPError):
        return False
    return True


@contextmanager
def _own_store(settings: Settings, port: int) -> Iterator[StoreLocation]:
    require_free_port(port, "CXR_S3_PORT")
    command, keys = store_command(settings, port)
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    log = settings.logs_dir / "store.log"
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            env={**os.environ, **keys},
            stdout=output,
            stderr=output,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),  # noqa: PLW1509 (one system call)
        ) as process,
    ):
        try:
            _wait_until_it_answers(settings.embedded_store(port), process, log)
            yield settings.embedded_store(port)
        finally:
            process.terminate()


def _wait_until_it_answers(
    location: StoreLocation, process: "subprocess.Popen[bytes]", log: Path
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers(location):
        if process.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"the embedded object store did not start; see {log}")
        time.sleep(0.05)
