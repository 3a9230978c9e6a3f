import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any, cast
from uuid import UUID, uuid4

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from shell import wait_until

import flows.worker
from flows.worker import _forget_scheduled_runs, end_lost_runs


class Server:
    """The little of Prefect's client that is asked here."""

    def __init__(self, *states: StateType, run_count: int = 1) -> None:
        self.runs = [
            FlowRun(flow_id=uuid4(), state_type=state, run_count=run_count) for state in states
        ]
        self.set: list[StateType] = []
        self.deleted: list[UUID] = []

    def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return self.runs

    def set_flow_run_state(self, _: Any, state: State, *, force: bool) -> None:
        assert force
        self.set.append(state.type)

    def delete_flow_run(self, flow_run_id: UUID) -> None:
        self.deleted.append(flow_run_id)


@pytest.mark.parametrize(("go_on", "lost"), [(True, "CRASHED"), (False, "FAILED")])
def test_a_lost_run_that_was_being_cancelled_is_not_started_anew(go_on: bool, lost: str) -> None:
    server = Server(StateType.RUNNING, StateType.CANCELLING, StateType.PENDING)
    end_lost_runs(cast(SyncPrefectClient, server), go_on=go_on)
    assert [state.value for state in server.set] == [lost, "CANCELLED", lost]


@pytest.mark.parametrize(("go_on", "lost"), [(True, "SCHEDULED"), (False, "FAILED")])
def test_a_lost_run_that_had_not_begun_goes_back_to_the_queue(go_on: bool, lost: str) -> None:
    server = Server(StateType.PENDING, run_count=0)
    end_lost_runs(cast(SyncPrefectClient, server), go_on=go_on)
    assert [state.value for state in server.set] == [lost]


def test_a_lost_run_that_may_start_anew_goes_back_to_the_queue() -> None:
    """Not by the automation: the server of a stack that comes up may not listen yet."""
    server = Server(StateType.RUNNING, StateType.RUNNING)
    server.runs[0].tags = ["cxr", "cxr-restart"]
    end_lost_runs(cast(SyncPrefectClient, server), go_on=True)
    assert [state.value for state in server.set] == ["CRASHED", "SCHEDULED", "CRASHED"]


def test_runs_of_other_workers_are_left_alone() -> None:
    server = Server(StateType.RUNNING, StateType.RUNNING)
    server.runs[0].labels["prefect.worker.name"] = "second"
    server.runs[1].labels["prefect.worker.name"] = "local"
    end_lost_runs(cast(SyncPrefectClient, server), go_on=True)
    assert [state.value for state in server.set] == ["CRASHED"]


def test_a_command_forgets_what_a_schedule_laid_out_and_no_run_that_has_begun() -> None:
    server = Server(*[StateType.SCHEDULED] * 3, run_count=0)
    laid_out, interrupted, asked_for = server.runs
    laid_out.auto_scheduled = interrupted.auto_scheduled = True
    interrupted.run_count = 1
    _forget_scheduled_runs(cast(SyncPrefectClient, server))
    assert server.deleted == [laid_out.id]
    assert asked_for.run_count == 0


def begin_process(flow_run: FlowRun) -> "subprocess.Popen[bytes]":
    """As a worker does for a run; it takes no SIGTERM, nor does its child."""
    process = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo; sleep 600; true"],
        env={"PREFECT__FLOW_RUN_ID": str(flow_run.id)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    process.stdout.readline()
    return process


def test_what_outlived_its_worker_is_ended_before_its_run_may_start_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows.worker, "_GRACE_S", 0.5)
    server = Server(StateType.RUNNING, StateType.RUNNING)
    server.runs[1].labels["prefect.worker.name"] = "second"
    with begin_process(server.runs[0]) as orphan, begin_process(server.runs[1]) as other:
        family = psutil.Process(orphan.pid).children()
        wait_until(lambda: family or family.extend(psutil.Process(orphan.pid).children()))

        def ended(_: Any, state: State, **__: Any) -> None:
            assert psutil.wait_procs(family, timeout=10)[1] == []
            orphan.wait(timeout=10)
            server.set.append(state.type)

        monkeypatch.setattr(server, "set_flow_run_state", ended)
        try:
            end_lost_runs(cast(SyncPrefectClient, server), go_on=True)
            assert other.poll() is None
        finally:
            for process in (orphan, other):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert server.set == [StateType.CRASHED]


FAILING_WORKER = """
import os, subprocess, sys
from flows import worker

flow = subprocess.Popen(["sleep", "600"])
worker.time.sleep = lambda seconds: print("pause of", seconds)
worker.prefect_cli = lambda: sys.exit(%d)
worker.os.execv = lambda _, command: print(command[1:], flow.poll() is None)
worker.work()
"""


def test_a_worker_that_fails_is_started_again_without_what_it_left() -> None:
    command = [sys.executable, "-c", FAILING_WORKER % 1]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert told.splitlines()[-2:] == [*("pause of 5.0", "['-m', 'flows.worker', 'again'] False")]


def test_a_worker_that_is_told_to_end_ends() -> None:
    code = FAILING_WORKER.replace('["sleep", "600"]', '"true"') % 0
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, check=True
    )
    assert told.stdout == b""
