"""The local stack's worker: waits for the server, makes pool and deployments, then works.

Run as ``python -m flows.worker`` with ``PREFECT_API_URL`` set.
"""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import httpx

from cxr_model.errors import StackError
from flows.stack import WORK_POOL

_SERVER_TIMEOUT_S = 120.0


def main() -> None:
    """Never returns: the process becomes the worker."""
    _wait_for_server(os.environ["PREFECT_API_URL"])
    prefect = str(Path(sys.executable).with_name("prefect"))
    pool = [prefect, "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite"]
    subprocess.run(pool, check=True)
    deploy = [prefect, "deploy", "--prefect-file", str(_prefect_file()), "--all"]
    subprocess.run(deploy, check=True)
    # One run at a time: two on one machine would take twice as long each.
    os.execv(prefect, [prefect, "worker", "start", "--pool", WORK_POOL, "--limit", "1"])


def _wait_for_server(api_url: str) -> None:
    deadline = time.monotonic() + _SERVER_TIMEOUT_S
    while True:
        try:
            if httpx.get(f"{api_url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise StackError(
                    f"{api_url}: no answer within {_SERVER_TIMEOUT_S:.0f} s; see the log above"
                ) from None
        time.sleep(0.2)


def _prefect_file() -> Path:
    # Found, not imported: flows know nothing of deployments.
    spec = find_spec("deployments")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "prefect.yaml"


if __name__ == "__main__":
    main()
