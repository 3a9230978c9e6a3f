"""The local stack's worker: waits for the server, makes pool and deployments, then works.

Run as ``python -m flows.worker`` with ``PREFECT_API_URL`` set.
"""

import contextlib
import os
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import httpx
from prefect.cli import app as prefect_cli
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from cxr_model.errors import StackError
from flows.stack import WORK_POOL

_SERVER_TIMEOUT_S = 120.0


def main() -> None:
    """Never returns: the process becomes the worker."""
    import_module(
        "flows.train"
    )  # seconds of work that the deployment needs, while the server starts
    _wait_for_server(os.environ["PREFECT_API_URL"])
    with get_client(sync_client=True) as client:
        _make_work_pool(client)
        _end_lost_runs(client)
    _run_prefect("deploy", "--prefect-file", str(_prefect_file()), "--all")
    page = os.environ["PREFECT_API_URL"].removesuffix("/api")
    print(f"ready: runs and deployments at {page}; Ctrl-C or 'cxr down' ends the stack", flush=True)
    prefect = [sys.executable, "-m", "prefect", "worker", "start"]
    # One run at a time: two on one machine would take twice as long each.
    # A fresh process: the flow's libraries would stay in this one's memory.
    os.execv(
        sys.executable,
        [*prefect, "--pool", WORK_POOL, "--type", "process", "--name", "local", "--limit", "1"],
    )


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


def _make_work_pool(client: SyncPrefectClient) -> None:
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template)
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)


def _end_lost_runs(client: SyncPrefectClient) -> None:
    """Runs that an earlier stack took with it when it ended would stay Running for ever."""
    under_way = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    for flow_run in client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way))
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
    ):
        lost: State = Crashed(message="The local stack ended while this run was under way.")
        client.set_flow_run_state(flow_run.id, lost, force=True)


def _run_prefect(*arguments: str) -> None:
    """Prefect's command line in this process, which spares its five seconds of imports."""
    sys.argv = ["prefect", *arguments]
    try:
        prefect_cli()
    except SystemExit as end:
        if end.code:
            raise


def _prefect_file() -> Path:
    # Found, not imported: no code of deployments is needed, only where its file lies.
    spec = find_spec("deployments")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "prefect.yaml"


if __name__ == "__main__":
    main()
