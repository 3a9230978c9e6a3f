"""A server that answers late or with an error: the way to it is cut and mended in the client."""

import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State, StateType
from prefect.states import Completed, Crashed, Failed, Running, Scheduled
from prefect.testing.utilities import prefect_test_harness
from rich.console import Console

from cxr_model.errors import GateError, StackError
from flows import submit
from flows.jobs import Job


@flow
def nothing() -> None: ...


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        yield client


JOB = Job(name="train", run_id="r", parameters={})


def _cut(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next ``times`` requests meet no server."""
    send, failed = client._client.send, []

    def try_to_send(request: httpx.Request, **options: object) -> httpx.Response:
        if len(failed) < times:
            failed.append(request)
            raise httpx.ReadTimeout("no answer", request=request)
        return send(request, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(client._client, "send", try_to_send)


def test_of_a_run_that_nobody_starts_anew_the_crash_is_the_end(client: SyncPrefectClient) -> None:
    run, told = client.create_flow_run(nothing, tags=["cxr"]), StringIO()
    client.set_flow_run_state(run.id, Crashed(message="killed"), force=True)
    started = time.monotonic()
    told_to_user = (
        "ended as Crashed: killed; see the worker's log, then .*'cxr train --resume r' go"
    )
    with pytest.raises(StackError, match=told_to_user):
        submit._follow(client, run, Console(file=told), JOB)
    assert "anew" not in told.getvalue()
    assert time.monotonic() - started < submit._RESTART_S / 2


def test_a_red_gate_is_told_as_what_it_is(client: SyncPrefectClient) -> None:
    run = client.create_flow_run(nothing, tags=["cxr"])
    message = "Flow run encountered an exception: GateError: not for the registry: leakage"
    client.set_flow_run_state(run.id, Failed(message=message), force=True)
    with pytest.raises(GateError, match=r"^not for the registry: leakage$"):
        submit._follow(client, run, Console(file=StringIO()), JOB)


@pytest.mark.parametrize(("state", "last"), [(Completed(), "Completed"), (Running(), "Cancelling")])
def test_ctrl_c_cancels_what_has_not_ended(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, state: State, last: str
) -> None:
    run, told = client.create_flow_run(nothing), StringIO()
    client.set_flow_run_state(run.id, state, force=True)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "run_deployment", lambda *_, **__: run)
    monkeypatch.setattr(submit, "_follow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        submit.submit(JOB, str(client.api_url), Console(file=told))
    now = client.read_flow_run(run.id).state
    assert now is not None
    assert now.name == last
    assert ("has ended as Completed" in told.getvalue()) == (last == "Completed")


def test_the_pool_that_no_worker_listens_on_is_the_runs_own(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = client.create_flow_run(nothing, state=Scheduled()), StringIO()
    run.work_pool_name = "cxr-kubernetes"
    monkeypatch.setattr(submit, "_PATIENCE_S", -1.0)

    def look_once(*_: object) -> State:
        return State(type=StateType.CANCELLED if told.getvalue() else StateType.SCHEDULED)

    monkeypatch.setattr(submit, "_look", look_once)
    _cut(client, monkeypatch, times=1)  # which ends nothing: it is asked again
    with pytest.raises(StackError, match=r"was cancelled; start it again$"):
        submit._follow(client, run, Console(file=told), replace(JOB, name="evaluate"))
    assert "is one listening on cxr-kubernetes?" in told.getvalue()


def test_a_run_that_waits_behind_others_is_told_of_them(client: SyncPrefectClient) -> None:
    client.create_work_pool(WorkPoolCreate(name="busy", type="process"))
    deployment = client.create_deployment(
        client.create_flow(nothing), "nothing", work_pool_name="busy"
    )
    before = client.create_flow_run_from_deployment(deployment, name="train-before")
    assert submit._why_it_waits(client, "busy") == (
        "no worker has taken the run yet; is one listening on busy?"
    )
    client.set_flow_run_state(before.id, Running(), force=True)
    assert submit._why_it_waits(client, "busy") == (
        "waiting for a turn on busy: at work on train-before"
    )


def test_a_server_that_is_silent_for_a_while_is_waited_for(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = client.create_flow_run(nothing), StringIO()
    log = submit._RunLog(client, run.id, Console(file=told))
    monkeypatch.setattr(submit, "_MOST_POLL_S", 0.01)
    _cut(client, monkeypatch, times=3)
    state = submit._look(client, run.id, log)
    assert state.is_pending()
    assert told.getvalue().count("does not answer; waiting") == 1


def test_of_a_server_that_stays_silent_it_is_said_that_the_run_may_go_on(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = client.create_flow_run(nothing)
    log = submit._RunLog(client, run.id, Console(file=StringIO()))
    monkeypatch.setattr(submit, "_MOST_POLL_S", 0.01)
    monkeypatch.setattr(submit, "_SILENCE_S", 0.05)
    _cut(client, monkeypatch, times=1000)
    with pytest.raises(StackError, match="does not answer \\(ReadTimeout\\); the run goes on"):
        submit._look(client, run.id, log)
