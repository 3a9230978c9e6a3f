"""``cxr bench serve``: an untrained network of the settings, served by ``cxr serve`` itself."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.prepare import UNTRAINED, Prepared, save_untrained
from benchmarks.serve_speed import measure_serving
from cxr_model.config import RunConfig
from cxr_model.device import resolve_device
from cxr_model.errors import StackError
from cxr_model.run_folder import RunFolder
from cxr_model.serving import load_to_serve
from flows.commands.shared import open_store
from flows.embedded_store import free_port
from flows.settings import Settings
from tasks.run_store import publish_run

_NUM_FILMS = 64
_START_TIMEOUT_S = 120.0


def bench_serving(films: Prepared, config: RunConfig, work: Path, rounds: int) -> dict[str, Any]:
    """Latency and throughput of a service whose bucket and state lie below ``work``."""
    settings = Settings(home=work / "state", prefect_port=free_port(), store_port=free_port())
    run = _publish_untrained(films, config, work, settings)
    paths = [films.root / path for path in films.films["path"][:_NUM_FILMS]]
    model = load_to_serve(run, resolve_device("auto"))
    with _served(settings, work / "serve.log") as address:
        return measure_serving(address, [path.read_bytes() for path in paths], model, rounds=rounds)


def _publish_untrained(
    films: Prepared, config: RunConfig, work: Path, settings: Settings
) -> RunFolder:
    run = save_untrained(films, config, work / UNTRAINED)
    unknown = {"value": None, "ci_low": None, "ci_high": None, "n": 0}
    headline: dict[str, Any] = {"preset": config.preset, "source": config.data.source}
    headline |= {"network": config.network.name, "accuracy": unknown, "balanced_accuracy": unknown}
    with open_store(settings) as store:
        publish_run(store, run, UNTRAINED, headline)
    return run


@contextmanager
def _served(settings: Settings, log: Path) -> Iterator[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CXR_")},
        "CXR_HOME": str(settings.home),
        "CXR_PREFECT_PORT": str(settings.prefect_port),
        "CXR_S3_PORT": str(settings.store_port),
    }
    command = [sys.executable, "-m", "flows.cli", "serve", "--model", UNTRAINED, "--port", "0"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            yield _wait_for_model(process, log)
        finally:
            process.terminate()


def _wait_for_model(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        found = re.search(r"^(http://\S+)", log.read_text(), re.MULTILINE)
        if found and httpx.get(f"{found[1]}/healthz", trust_env=False).status_code == 200:
            return found[1]
    raise StackError(f"'cxr serve' did not start: {log.read_text()[-2000:]}")
