"""Hand a run to a Prefect worker and follow it to its end in the terminal."""

import re
import time
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from rich.console import Console

from cxr_model.errors import CxrError, StackError
from flows.jobs import Job
from flows.stack import WORK_POOL

_POLL_S = 2.0
_LATEST = 100  # so far back a late line may sort
_PATIENCE_S = 60.0
_RESTART_S = 90.0  # after a crash: the automation answers in 20 s or so, a busy server later
# What Prefect says to those who look after it; the run's own lines are shown.
_WORKERS_TALK = {"prefect.flow_runs.worker", "prefect.flow_runs.runner", "prefect.deployment"}
_ENGINES_TALK = {"Finished in state Completed()"}
_FAILURE = re.compile(r"Flow run encountered an exception: (\w+): (.*)", re.DOTALL)


def submit(job: Job, api_url: str, console: Console) -> UUID:
    """Run the job's deployment; returns the flow run's id when it is Completed.

    Prints the run's log as it comes. Ctrl-C cancels the flow run before it is raised
    again. A failure that the user can mend is raised as the ``CxrError`` it was on the
    worker, any other as a ``RuntimeError``.
    """
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        try:
            flow_run = run_deployment(
                job.deployment,
                parameters=job.parameters,
                flow_run_name=job.flow_run_name,
                timeout=0,
            )
            assert isinstance(flow_run, FlowRun)  # a coroutine only when called from async code
            console.print(f"flow run {flow_run.name}: {flow_run_page(api_url, flow_run.id)}")
            try:
                _follow(client, flow_run.id, console)
            except KeyboardInterrupt:
                client.set_flow_run_state(flow_run.id, Cancelling(), force=True)
                console.print("cancelling the flow run")
                raise
        except ObjectNotFound as error:
            raise StackError(
                f"{api_url}: has no deployment {job.deployment}; make it with 'cxr deploy'"
            ) from error
        except httpx.TransportError as error:
            raise StackError(
                f"{api_url}: the Prefect server is gone ({error or type(error).__name__}); the "
                "run may go on on its worker, see 'cxr runs'"
            ) from error
    return flow_run.id


def flow_run_page(api_url: str, flow_run_id: UUID) -> str:
    """The run's page in the Prefect UI of the server at ``api_url``."""
    return f"{api_url.removesuffix('/api')}/runs/flow-run/{flow_run_id}"


def _follow(client: SyncPrefectClient, flow_run_id: UUID, console: Console) -> None:
    shown: set[UUID | None] = set()
    started, warned = time.monotonic(), False
    crashed_at: float | None = None
    while True:
        state = client.read_flow_run(flow_run_id).state
        assert state is not None
        # Slept and read after the state: the last lines of a finished run are shown too.
        time.sleep(_POLL_S)
        _print_new_logs(client, flow_run_id, shown, console)
        if state.is_crashed():
            if crashed_at is None:
                crashed_at = time.monotonic()
                console.print(f"the run crashed ({state.message}); it is to be started anew")
            if time.monotonic() - crashed_at > _RESTART_S:
                break
        elif state.is_final():
            break
        elif state.is_running():
            crashed_at = None
        elif state.is_scheduled() and not warned and time.monotonic() - started > _PATIENCE_S:
            console.print(f"no worker has taken the run yet; is one listening on {WORK_POOL}?")
            warned = True
    if not state.is_completed():
        raise _failure(state.name or state.type.value, state.message or "")


def _print_new_logs(
    client: SyncPrefectClient, flow_run_id: UUID, shown: set[UUID | None], console: Console
) -> None:
    """Print what is not in ``shown`` yet: late lines may sort before those already there."""
    of_this_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    offset = max(0, len(shown) - _LATEST)
    while logs := client.read_logs(of_this_run, offset=offset, sort=LogSort.TIMESTAMP_ASC):
        offset += len(logs)
        for log in logs:
            if log.id in shown:
                continue
            shown.add(log.id)
            if not (log.name in _WORKERS_TALK or log.message in _ENGINES_TALK):
                console.print(f"{log.timestamp:%H:%M:%S} {log.message}")


def _failure(state: str, message: str) -> Exception:
    told = _FAILURE.match(message)
    if told and told[1] in _names_of(CxrError):
        return CxrError(told[2])
    if state == "Cancelled":
        return StackError(
            "the flow run was cancelled; start it again, or go on with --resume and its id"
        )
    return RuntimeError(f"the flow run ended as {state}: {message}")


def _names_of(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*(_names_of(each) for each in kind.__subclasses__()))
