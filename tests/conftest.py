"""Object stores for the tests: a real S3 server on loopback, and a second implementation."""

import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import torch

from cxr_model.config import NetworkConfig
from cxr_model.model_files import ModelCard, save_model
from cxr_model.network import build_network, network_arguments, num_parameters
from cxr_model.run_folder import RunFolder, write_json
from tasks.storage import ObjectStore
from tasks.storage_location import StoreLocation
from tests.tiny_model import ALWAYS_ANSWER

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    torch.set_num_threads(1)  # the tests' networks are too small to share among cores
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@dataclass(frozen=True)
class S3Server:
    endpoint_url: str
    credentials_file: Path

    def location(self, prefix: str) -> StoreLocation:
        return StoreLocation(
            endpoint_url=self.endpoint_url,
            bucket="cxr-tests",
            prefix=prefix,
            credentials_file=self.credentials_file,
        )

    def with_bucket(self) -> "S3Server":
        with ObjectStore(self.location("")) as store:
            store.check()
        return self


@pytest.fixture(scope="session", autouse=True)
def shared_api_models() -> Iterator[None]:
    """Parse botocore's model of S3 once, not for each of some hundred clients (0.1 s each)."""
    loader = botocore.session.create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", lambda *_: loader)
        yield


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """``rclone serve s3``, which checks signatures; ends with the tests."""
    folder = tmp_path_factory.mktemp("rclone")
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    port = free_port()
    with subprocess.Popen(
        [
            *(Path(sysconfig.get_path("scripts")) / "rclone", "serve", "s3"),
            *("--addr", f"127.0.0.1:{port}", "--config", "", "--log-level", "ERROR", folder),
        ],
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{key},{secret}"'},
    ) as process:
        try:
            wait_until_open(port)
            credentials = write_credentials(tmp_path_factory.mktemp("keys") / "keys", key, secret)
            yield S3Server(f"http://127.0.0.1:{port}", credentials).with_bucket()
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto's S3, in a thread: it does not check keys, but lists and pages as AWS does."""
    from moto.server import ThreadedMotoServer

    credentials = write_credentials(tmp_path_factory.mktemp("moto") / "keys", "key", "secret")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", credentials).with_bucket()
    finally:
        server.stop()


@pytest.fixture
def location(rclone_server: S3Server) -> StoreLocation:
    """A prefix of the test's own."""
    return rclone_server.location(f"{secrets.token_hex(4)}/chest films ü")


@pytest.fixture
def store(location: StoreLocation) -> Iterator[ObjectStore]:
    with ObjectStore(location) as store:
        yield store


@pytest.fixture(params=["rclone_server", "moto_server"])
def either_store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """For what must hold on every S3 server."""
    server: S3Server = request.getfixturevalue(request.param)
    with ObjectStore(server.location(f"{secrets.token_hex(4)}/chest films ü")) as store:
        yield store


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; a test without it is skipped."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update",
                "--disable-sync",
            ],
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A network of three classes that no one has trained, for grey films of 32 px."""
    arguments = network_arguments(
        NetworkConfig(widths=(8, 8, 16), depths=(1,)), in_channels=1, num_classes=3
    )
    network = build_network(arguments, torch.Generator().manual_seed(0))
    card = ModelCard(
        run_id="tiny",
        network=arguments,
        classes=["normal", "pneumonia", "covid"],
        size_px=32,
        color="grey",
        mean=0.5,
        std=0.25,
        num_parameters=num_parameters(network),
        layers=[],
    )
    run = RunFolder(tmp_path_factory.mktemp("tiny"))
    save_model(run, network.state_dict(), card)
    ALWAYS_ANSWER.write(run.decision)
    gates = [{"name": name, "passed": name == "leakage"} for name in ("leakage", "shortcut")]
    write_json(run.metrics, {"gates": gates})
    return run


@pytest.fixture(scope="session")
def headline() -> dict[str, Any]:
    """What a manifest says of a run's figures; one of them is undefined."""
    undefined = {"value": None, "ci_low": None, "ci_high": None, "n": 120}
    return {
        "preset": "smoke",
        "source": "phantom:60",
        "network": "cxresnet",
        "accuracy": {"value": 0.9, "ci_low": 0.8, "ci_high": 0.95, "n": 120},
        "balanced_accuracy": undefined,
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_open(port: int, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def write_credentials(path: Path, key: str, secret: str) -> Path:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    path.chmod(0o600)
    return path
