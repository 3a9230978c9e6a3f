"""What a Prefect server knows of our workers, runs and limits."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.settings import shown

_SHOWN = 15


@dataclass(frozen=True)
class WorkerStatus:
    name: str
    pool: str
    state: str
    last_heard: str


@dataclass(frozen=True)
class RunStatus:
    name: str
    state: str
    where: str
    """Its worker, and what that started for it: a process, or a Job's namespace and name."""
    since: str
    took: str


@dataclass(frozen=True)
class LimitStatus:
    name: str
    taken: int
    slots: int


@dataclass(frozen=True)
class Status:
    page: str
    workers: list[WorkerStatus]
    runs: list[RunStatus]
    limits: list[LimitStatus]


def read_status(api_url: str) -> Status:
    """Workers, our runs under way and the newest ones (those to come left out), and limits."""
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        return Status(
            page=shown(api_url).removesuffix("/api"),
            workers=_workers(client),
            runs=runs_of(client),
            limits=[
                LimitStatus(limit.name, limit.active_slots, limit.limit)
                for limit in client.read_global_concurrency_limits(limit=100, offset=0)
                if limit.name.startswith("cxr-")
            ],
        )


def _workers(client: SyncPrefectClient) -> list[WorkerStatus]:
    return [
        WorkerStatus(
            worker.name, pool.name, str(worker.status.value), _moment(worker.last_heartbeat_time)
        )
        for pool in client.read_work_pools()
        for worker in client.read_workers_for_work_pool(pool.name)
    ]


def runs_of(client: SyncPrefectClient) -> list[RunStatus]:
    """Those under way first: behind a long training a dozen others may wait by now."""
    under_way = FlowRunFilterStateType(
        any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    )
    newest, at_work = (
        client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["cxr"]), state=state),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=10 * _SHOWN,
        )
        for state in (None, FlowRunFilterState(type=under_way))
    )
    soon = datetime.now(UTC) + timedelta(minutes=1)
    begun = [run for run in newest if (run.expected_start_time or soon) < soon]
    runs = {run.id: run for run in [*at_work, *begun]}
    return [_run(run) for run in list(runs.values())[:_SHOWN]]


def _run(run: FlowRun) -> RunStatus:
    started = run.infrastructure_pid or ""
    return RunStatus(
        run.name,
        run.state_name or "",
        " ".join(filter(None, (str(run.labels.get("prefect.worker.name", "")), started))),
        _moment(run.start_time or run.expected_start_time),
        str(timedelta(seconds=round(run.estimated_run_time.total_seconds()))),
    )


def _moment(when: datetime | None) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if when else ""
