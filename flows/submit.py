"""Hand a run to a Prefect worker and follow it to its end in the terminal."""

import re
import time
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import State
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, Log, StateType
from prefect.client.schemas.sorting import LogSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from prefect.types import DateTime
from rich.console import Console

from cxr_model.errors import CxrError, GateError, StackError, kinds_of_error
from flows.jobs import Job
from flows.settings import shown

# Each look takes the server and this process some 0.05 s, which a training here would use.
_LEAST_POLL_S, _MOST_POLL_S = 1.0, 5.0
_LAST_LINES_S = 3.0  # Prefect sends a process's lines every other second, and as it ends
_LATE = timedelta(seconds=15)  # so far back a late line may sort
_PAGE = 200
_PATIENCE_S = 60.0
_SILENCE_S = 180.0  # a request ends after 60 s by itself, and SQLite can be locked as long
RESTART_TAG = "cxr-restart"  # of the deployments that `automations.yaml` starts anew
_RESTART_S = 90.0  # after a crash: the automation answers in 20 s or so, a busy server later
# What Prefect says to those who look after it; the run's own lines are shown.
_WORKERS_TALK = {"prefect.flow_runs.worker", "prefect.flow_runs.runner", "prefect.deployment"}
_ENGINES_TALK = {"Finished in state Completed()"}
_ENGINES_LAST_WORDS = "Finished in state "
_FAILURE = re.compile(r"Flow run encountered an exception: (\w+): (.*)", re.DOTALL)


def submit(job: Job, api_url: str, console: Console) -> UUID:
    """Run the job's deployment; returns the flow run's id when it is Completed.

    Prints the run's log as it comes. Ctrl-C cancels the flow run before it is raised
    again. A failure that the user can mend is raised as a ``CxrError``, as ``GateError``
    where the run is published, any other as a ``RuntimeError``.
    """
    server = shown(api_url)
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
                _follow(client, flow_run, console, job)
            except KeyboardInterrupt:
                now = client.read_flow_run(flow_run.id)
                if now.state is not None and now.state.is_final():
                    console.print(f"the flow run has ended as {now.state.name}")
                    raise
                client.set_flow_run_state(flow_run.id, Cancelling(), force=True)
                console.print(f"cancelling the flow run{job.way_back if now.run_count else ''}")
                raise
            except ObjectNotFound as error:
                raise StackError(f"flow run {flow_run.name}: was deleted meanwhile") from error
        except ObjectNotFound as error:
            raise StackError(
                f"{server}: has no deployment {job.deployment}; make it with 'cxr deploy'"
            ) from error
        except PrefectHTTPStatusError as error:
            raise StackError(
                f"{server}: refuses the run ({_reason(error)}); say 'cxr deploy' again, so that "
                "deployments and settings are of this version"
            ) from error
        except httpx.TransportError as error:
            raise StackError(
                f"{server}: the Prefect server is gone ({error or type(error).__name__}); the "
                "run may go on on its worker, see 'cxr runs'"
            ) from error
    return flow_run.id


def _reason(error: PrefectHTTPStatusError) -> str:
    try:
        return str(error.response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.response.status_code}"


def flow_run_page(api_url: str, flow_run_id: UUID) -> str:
    """The run's page in the Prefect UI of the server at ``api_url``."""
    return f"{shown(api_url).removesuffix('/api')}/runs/flow-run/{flow_run_id}"


def _follow(client: SyncPrefectClient, flow_run: FlowRun, console: Console, job: Job) -> None:
    log = _RunLog(client, flow_run.id, console, has_folds=job.name == "crossval")
    started, warned = time.monotonic(), False
    num_tasks, task_began = 0, started
    crashed_at: float | None = None
    while True:
        state = _look(client, flow_run.id, log)
        now = time.monotonic()
        if log.num_tasks > num_tasks:  # the next ones may be short, and the end near
            num_tasks, task_began = log.num_tasks, now
        if state.is_crashed() and RESTART_TAG in flow_run.tags:
            if crashed_at is None:
                crashed_at = now
                console.print(f"the run crashed ({state.message}); it is to be started anew")
            if now - crashed_at > _RESTART_S:
                break
        elif state.is_final():
            break
        elif state.is_running():
            crashed_at = None
        elif state.is_scheduled() and not warned and now - started > _PATIENCE_S:
            with suppress(httpx.HTTPError):  # a busy server is asked again after the next look
                console.print(_why_it_waits(client, flow_run.work_pool_name or ""))
                warned = True
        time.sleep(min(_LEAST_POLL_S + (now - task_began) / 20, _MOST_POLL_S))
    log.print_last()
    if not state.is_completed():
        raise _failure(state.name or state.type.value, state.message or "", job.way_back)


def _why_it_waits(client: SyncPrefectClient, pool: str) -> str:
    under_way = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=under_way)),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )
    if found:
        return f"waiting for a turn on {pool}: at work on {', '.join(run.name for run in found)}"
    return f"no worker has taken the run yet; is one listening on {pool}?"


def _look(client: SyncPrefectClient, flow_run_id: UUID, log: "_RunLog") -> State:
    """The run's state, and its new lines printed; a server that is silent is waited for.

    Raises ``StackError`` where it stays so; the run itself may well go on meanwhile.
    """
    deadline, told = time.monotonic() + _SILENCE_S, False
    while True:
        try:
            state = client.read_flow_run(flow_run_id).state
            log.print_new()
        except httpx.HTTPError as error:
            if not told:
                log.say(f"the Prefect server does not answer; waiting up to {_SILENCE_S:.0f} s")
                told = True
            if time.monotonic() > deadline:
                raise StackError(
                    f"the Prefect server does not answer ({type(error).__name__}); the run goes "
                    "on if a worker has it, 'cxr status' tells"
                ) from error
            time.sleep(_MOST_POLL_S)
        else:
            assert state is not None
            return state


class _RunLog:
    """Prints a flow run's lines as they come; late ones sort before those already there."""

    def __init__(
        self,
        client: SyncPrefectClient,
        flow_run_id: UUID,
        console: Console,
        *,
        has_folds: bool = False,
    ) -> None:
        self._client, self._flow_run_id, self._console = client, flow_run_id, console
        self._has_folds = has_folds
        self._shown: set[UUID | None] = set()
        self._newest: DateTime | None = None
        self._has_ended = False
        self._tasks: set[UUID] = set()

    @property
    def num_tasks(self) -> int:
        """Task runs that have told something."""
        return len(self._tasks)

    def say(self, line: str) -> None:
        self._console.print(line)

    def print_new(self) -> None:
        since = self._newest and self._newest - _LATE
        which = LogFilter(
            flow_run_id=LogFilterFlowRunId(any_=[self._flow_run_id, *self._flow_of_folds()]),
            timestamp=LogFilterTimestamp(after_=since),
        )
        offset = 0
        while True:
            lines = self._client.read_logs(
                which, offset=offset, limit=_PAGE, sort=LogSort.TIMESTAMP_ASC
            )
            for line in lines:
                if line.id not in self._shown:
                    self._print(line)
            if len(lines) < _PAGE:
                break
            offset += len(lines)

    def _flow_of_folds(self) -> list[UUID]:
        """A cross-validation's folds are tasks of a flow of their own."""
        if not self._has_folds:
            return []
        of_this = FlowRunFilterParentFlowRunId(any_=[self._flow_run_id])
        found = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=of_this)
        )
        return [flow_run.id for flow_run in found]

    def print_last(self) -> None:
        """Print until the flow's last line has come, or should have."""
        deadline = time.monotonic() + _LAST_LINES_S
        while not self._has_ended and time.monotonic() < deadline:
            time.sleep(0.2)
            self.print_new()

    def _print(self, line: Log) -> None:
        self._shown.add(line.id)
        if line.task_run_id:
            self._tasks.add(line.task_run_id)
        self._newest = max(self._newest or line.timestamp, line.timestamp)
        if line.name == "prefect.flow_runs" and line.flow_run_id == self._flow_run_id:
            # A crashed one that goes on has not.
            self._has_ended = line.message.startswith(_ENGINES_LAST_WORDS)
        if not (line.name in _WORKERS_TALK or line.message in _ENGINES_TALK):
            self._console.print(f"{line.timestamp:%H:%M:%S} {line.message}")


def _failure(state: str, message: str, way_back: str) -> Exception:
    told = _FAILURE.match(message)
    if told and told[1] == GateError.__name__:
        return GateError(told[2])
    if told and told[1] in kinds_of_error():
        return CxrError(told[2])
    if state == "Cancelled":
        return StackError(f"the flow run was cancelled{way_back or '; start it again'}")
    if state == "Crashed":
        return StackError(
            f"the flow run ended as Crashed: {message}; see the worker's log, then start it again"
            f"{way_back}"
        )
    return RuntimeError(f"the flow run ended as {state}: {message}")
