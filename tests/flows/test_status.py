from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType

from flows.status import runs_of

NOW = datetime.now(UTC)


def run(name: str, minutes_ago: int, state: StateType, where: str | None = None) -> FlowRun:
    return FlowRun(
        flow_id=uuid4(),
        name=name,
        state_type=state,
        state_name=state.value.capitalize(),
        expected_start_time=NOW - timedelta(minutes=minutes_ago),
        infrastructure_pid=where,
        labels={"prefect.worker.name": "box"} if where else {},
    )


class Server:
    """The little of Prefect's client that is asked here."""

    def __init__(self, runs: list[FlowRun]) -> None:
        self.runs = sorted(runs, key=lambda run: str(run.expected_start_time), reverse=True)

    def read_flow_runs(self, flow_run_filter: Any, limit: int, **_: Any) -> list[FlowRun]:
        only = flow_run_filter.state and flow_run_filter.state.type.any_
        return [run for run in self.runs if only is None or run.state_type in only][:limit]


def test_a_training_is_shown_whose_hours_others_wait_for_and_where_it_runs() -> None:
    waiting = [run(f"predict-{n}", 15 * n, StateType.SCHEDULED) for n in range(1, 40)]
    to_come = run("train-to-come", -600, StateType.SCHEDULED)
    training = run("train-long", 700, StateType.RUNNING, "4711")
    found = runs_of(cast(SyncPrefectClient, Server([to_come, *waiting, training])))
    assert (found[0].name, found[0].state, found[0].where) == ("train-long", "Running", "box 4711")
    assert [each.name for each in found[1:4]] == ["predict-1", "predict-2", "predict-3"]
    assert len(found) == 15
