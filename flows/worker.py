"""The local stack's worker: waits for the server, applies the deployments, then works.

Run as ``python -m flows.worker`` with ``PREFECT_API_URL`` set.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from threading import Thread
from uuid import UUID

import httpx
import psutil
from prefect.cli import app as prefect_cli
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed, Failed, Scheduled

from cxr_model.errors import ConfigError, StackError
from flows.settings import Settings
from flows.stack import FOR_A_COMMAND, WORK_POOL
from flows.submit import RESTART_TAG
from flows.supervisor import end_with_parent

_SERVER_TIMEOUT_S = 120.0
_GRACE_S = 15.0  # a training that is told to end writes a checkpoint
_PAUSE_S = 5.0  # what fails at once is not to fail without a pause
_AGAIN = "again"
_NAME = "local"


def main() -> None:
    """Never returns: the process is the worker."""
    # In a process of its own, whose libraries do not stay in the worker's memory.
    applying = get_context("spawn").Process(target=_apply_deployments)
    applying.start()
    applying.join()
    if applying.exitcode:
        sys.exit(1)  # it has told why
    is_again = sys.argv[1:] == [_AGAIN]
    is_for_a_command = FOR_A_COMMAND in os.environ and not is_again
    with get_client(sync_client=True) as client:
        end_lost_runs(client, go_on=not is_for_a_command)
        if is_for_a_command:  # which is not to wait for what a schedule starts
            _forget_scheduled_runs(client)
    page = os.environ["PREFECT_API_URL"].removesuffix("/api")
    print(f"ready: runs and deployments at {page}; Ctrl-C or 'cxr down' ends the stack", flush=True)
    # Prefect's command line, in this process: another one would import for seconds first.
    # One run at a time: two on one machine would take twice as long each.
    command = ["worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", _NAME]
    sys.argv = ["prefect", *command, "--limit", "1"]
    work()


def work() -> None:
    """Prefect's worker; one that ends by an error of its own is started again in its place.

    It does now and then where SQLite is busy: the server hands out a run a second time, and
    the worker ends with "this borrower is already holding one of this CapacityLimiter's tokens".
    """
    try:
        prefect_cli()
    except SystemExit as end:
        if not end.code:  # it was told to
            raise
    print("the worker ended by an error of its own (above) and starts again", flush=True)
    # A flow that it leaves behind would go on beside the one that takes its place.
    _end(psutil.Process().children(recursive=True))
    time.sleep(_PAUSE_S)
    os.execv(sys.executable, [sys.executable, "-m", "flows.worker", _AGAIN])


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=_GRACE_S)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _apply_deployments() -> None:
    end_with_parent(signal.SIGKILL)
    from flows.deploy import apply_if_changed, load_flows, read_plan

    # Seconds of work that deployments need, if there is a change, while the server starts.
    Thread(target=load_flows, daemon=True).start()
    _wait_for_server(os.environ["PREFECT_API_URL"])
    settings = Settings.from_environment()
    try:
        plan = read_plan()
    except ConfigError as error:  # without the stack there is no 'cxr deploy'
        print(f"the deployments stay as they are: {error}", file=sys.stderr, flush=True)
        return
    apply_if_changed(plan, settings)


def _wait_for_server(api_url: str) -> None:
    deadline = time.monotonic() + _SERVER_TIMEOUT_S
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{api_url}/health", timeout=5).is_success:
                return
        if time.monotonic() > deadline:
            raise StackError(
                f"{api_url}: not healthy within {_SERVER_TIMEOUT_S:.0f} s; see the log above"
            )
        time.sleep(0.2)


def end_lost_runs(client: SyncPrefectClient, *, go_on: bool) -> None:
    """Runs that an earlier stack took with it when it ended would stay Running for ever.

    With ``go_on`` they count as crashed and go back to the queue, those that may start anew (the
    automation of crashed runs may not listen yet) and those that had not begun; those that were
    being cancelled are, and stay so. Runs of other workers of the pool live, or fall silent, on
    their own.

    Where the worker alone was killed, what it had started for a run works on, and would keep
    the run's folder from the process that takes its place: it is ended first.
    """
    under_way = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    for flow_run in client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way))
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
    ):
        if flow_run.labels.get("prefect.worker.name", _NAME) != _NAME:
            continue
        if left := _processes_of(flow_run.id):
            print(f"{flow_run.name}: outlived its worker and is ended", flush=True)
            _end(left)
        told = "Its worker ended while this run was under way."
        if flow_run.state_type == StateType.CANCELLING:
            lost: State = Cancelled(message=told)
        elif go_on and not flow_run.run_count:
            lost = Scheduled(message=told)
        else:
            lost = Crashed(message=told) if go_on else Failed(message=told)
        client.set_flow_run_state(flow_run.id, lost, force=True)
        if lost.type == StateType.CRASHED and RESTART_TAG in flow_run.tags:
            again: State = Scheduled(
                name="AwaitingRetry", message="It goes on from its checkpoint."
            )
            client.set_flow_run_state(flow_run.id, again, force=True)


def _processes_of(flow_run_id: UUID) -> list[psutil.Process]:
    """All of this machine that a Prefect worker started for the run, and those they started.

    Known by their environment: Prefect notes one number only, and a number is used again.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or gone
            if process.environ().get("PREFECT__FLOW_RUN_ID") == str(flow_run_id):
                found.append(process)
    return found


def _forget_scheduled_runs(client: SyncPrefectClient) -> None:
    """Those that an earlier stack's scheduler laid out; the next one lays them out anew."""
    soon = datetime.now(UTC) + timedelta(days=1)
    for flow_run in client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": soon}),
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
    ):
        if flow_run.auto_scheduled and not flow_run.run_count:  # one that has begun goes on
            client.delete_flow_run(flow_run.id)


if __name__ == "__main__":
    main()
