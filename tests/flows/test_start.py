"""What a flow asks when it was started more than once, and its turn at the device."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event, Timer
from uuid import UUID

import httpx
import pytest
from prefect import flow, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort
from prefect.states import AwaitingRetry, Crashed, Failed, Running
from prefect.testing.utilities import prefect_test_harness

from cxr_model.config import RunConfig
from cxr_model.config_json import read_config
from cxr_model.errors import ConfigError, StackError, StorageError
from cxr_model.run_folder import RunFolder, write_json
from flows import start
from flows.crossval import crossval
from flows.evaluate import evaluate
from flows.settings import Settings
from flows.start import MOST_STARTS, alone_in, require_current, started_again, turn_at
from flows.train import train

LIMIT = "cxr-device-test"


@pytest.fixture(scope="module", autouse=True)
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def lease(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[UUID]:
    """That of a turn at ``LIMIT``, looked after often."""
    monkeypatch.setattr(start, "_RENEW_S", 0.1)
    taken: list[UUID] = []
    take = start._take
    monkeypatch.setattr(
        start, "_take", lambda *asked: (lease := take(*asked)) and (taken.append(lease) or lease)
    )
    with turn_at(LIMIT):
        assert slots_taken(client) == 1
        yield taken[0]
    assert slots_taken(client) == 0


def slots_taken(client: SyncPrefectClient) -> int:
    return int(client.read_global_concurrency_limit_by_name(LIMIT).active_slots)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def set_states(client: SyncPrefectClient, run_id: str, *states: State) -> None:
    for state in states:
        client.set_flow_run_state(UUID(run_id), state, force=True)


def test_a_process_whose_run_another_one_took_over_ends_and_leaves_its_state_alone(
    client: SyncPrefectClient,
) -> None:
    runs: list[str] = []

    @flow
    def cut_off() -> None:
        runs.append(runtime.flow_run.id)
        require_current()
        set_states(client, runs[0], Crashed(), AwaitingRetry())
        require_current()  # nobody has begun yet: it may finish what it has
        set_states(client, runs[0], Running(), Failed())
        require_current()  # the other one did not get far
        set_states(client, runs[0], Running())
        require_current()
        runs.append("published")

    with pytest.raises(Abort, match="start 3 of the run is at work on it, this is number 1"):
        cut_off()
    assert len(runs) == 1
    state = client.read_flow_run(UUID(runs[0])).state
    assert state
    assert state.is_running()


def test_a_server_that_is_away_costs_no_finished_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_server(*_: object) -> None:
        raise httpx.ConnectError("no server")

    @flow
    def publishes() -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(SyncPrefectClient, "read_flow_run", no_server)
            require_current()
        return True

    assert publishes()
    assert "no word of this run from the server (ConnectError); going on" in caplog.text


@pytest.mark.parametrize("num_starts", [1, 2, MOST_STARTS, MOST_STARTS + 1])
def test_a_run_that_crashed_too_often_is_not_started_again(
    num_starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(num_starts))

    @flow
    def again() -> bool:
        return started_again()

    if num_starts > MOST_STARTS:
        with pytest.raises(StackError, match=f"crashed {MOST_STARTS} times; see the worker's log"):
            again()
    else:
        assert again() is (num_starts > 1)


@pytest.mark.parametrize(
    ("hour", "num_starts", "goes_on"),
    [
        ("microseconds", MOST_STARTS + 1, True),
        ("hours", MOST_STARTS + 1, False),
        ("microseconds", start._MOST_EVER, True),
        ("microseconds", start._MOST_EVER + 1, False),  # it crashes every time, late
    ],
)
def test_each_hour_under_way_grants_one_more_start_up_to_a_dozen(
    hour: str,
    num_starts: int,
    goes_on: bool,
    client: SyncPrefectClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(num_starts))
    monkeypatch.setattr(start, "_HOUR", timedelta(**{hour: 1}))

    @flow
    def again() -> bool:
        set_states(client, runtime.flow_run.id, Crashed(), AwaitingRetry(), Running())
        return started_again()

    if goes_on:
        assert again()
    else:
        with pytest.raises(StackError, match=f"crashed {num_starts - 1} times"):
            again()


@pytest.mark.parametrize("num_starts", [1, 2])
def test_a_run_that_is_started_again_waits_for_the_process_that_it_takes_over_from(
    num_starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was cut off from the server works on until it sees that."""
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(num_starts))
    root, is_held, may_end = tmp_path / "runs" / "r", Event(), Event()

    def hold() -> None:
        with alone_in(root):
            is_held.set()
            may_end.wait(20)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        assert is_held.wait(10)
        if num_starts == 1:
            with pytest.raises(ConfigError, match="works on it"), alone_in(root):
                pass
        Timer(0.3, may_end.set).start()
        if num_starts == 2:
            with alone_in(root):
                assert may_end.is_set()


@pytest.mark.parametrize("folder", [".checkpoints", "folds/naive-1-1/.checkpoints"])
@pytest.mark.parametrize(
    "begin", [train, crossval, partial(evaluate, "phantom:9")], ids=["train", "crossval", "other"]
)
def test_a_run_that_has_not_ended_loses_no_checkpoint_to_a_new_one_of_its_name(
    begin: Callable[..., str], folder: str, settings: Settings
) -> None:
    """As in the form that 'Copy run' fills in: no command was there to refuse it."""
    checkpoint = settings.runs_dir / "r" / folder / "step-00000001.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with pytest.raises(ConfigError, match=r"run r: was begun .*; go on with --resume r.*: resume"):
        begin(run_id="r")
    assert checkpoint.exists()


def test_a_resumption_by_other_settings_is_refused_and_the_way_back_stays(
    settings: Settings,
) -> None:
    """As in the form, which holds the deployment's settings and not the run's."""
    run = RunFolder(settings.runs_dir / "r")
    checkpoint = run.checkpoints / "step-00000001.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    begun = RunConfig()
    write_json(run.config, asdict(begun))
    other = replace(begun, training=replace(begun.training, epochs=100))
    with pytest.raises(ConfigError, match=r"training\.epochs=100: run r was begun with 60; resume"):
        train(other, run_id="r", resume=True)
    elsewhere = replace(begun, data=replace(begun.data, source="kaggle"))
    with pytest.raises(ConfigError, match=r"data\.source=kaggle: run r was begun with phantom"):
        train(elsewhere, run_id="r", resume=True)
    with pytest.raises(ConfigError, match="run r: is no cross-validation begun on this machine"):
        crossval(begun, run_id="r", resume=True)
    with pytest.raises(StorageError, match=r"neither .* knows it; without --resume a new one beg"):
        train(begun, run_id="unknown", resume=True)
    assert read_config(run.config) == begun
    assert checkpoint.exists()


@pytest.mark.parametrize("begin", [train, crossval])
def test_a_resumption_that_names_no_run_is_none_of_a_new_one(
    begin: Callable[..., str], settings: Settings
) -> None:
    with pytest.raises(ConfigError, match="resume=true: run_id names no run to go on with; set it"):
        begin(resume=True)
    assert not settings.home.exists()


def test_a_turn_that_ran_out_is_taken_again(lease: UUID, client: SyncPrefectClient) -> None:
    assert start._take(client, LIMIT) is None  # nobody else gets it while it is held
    client.release_concurrency_slots_with_lease(lease)
    wait_until(lambda: slots_taken(client) == 1)


def test_who_lost_its_turn_to_another_run_gets_it_back_after_it(
    lease: UUID,
    client: SyncPrefectClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    take, others = start._take, list[UUID | None]()

    def take_after_another(client: SyncPrefectClient, limit: str) -> UUID | None:
        if not others:
            others.append(take(client, limit))
        return take(client, limit)

    monkeypatch.setattr(start, "_take", take_after_another)
    client.release_concurrency_slots_with_lease(lease)
    wait_until(lambda: "another run may be at work beside this one" in caplog.text)
    assert others[0]
    client.release_concurrency_slots_with_lease(others[0])
    wait_until(lambda: "taken again" in caplog.text)


def test_without_its_limit_nobody_computes_unguarded(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(start, "make_limit", lambda *_: None)
        assert start._take(client, "gone") is None
    assert start._take(client, "gone")


def test_a_server_that_is_away_ends_no_turn(
    lease: UUID, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[UUID] = []
    renew = SyncPrefectClient.renew_concurrency_lease

    def fail_at_first(self: SyncPrefectClient, lease_id: UUID, *rest: float) -> httpx.Response:
        if len(failed) < 3:
            failed.append(lease_id)
            raise httpx.ConnectError("no server")
        failed.append(lease_id)
        return renew(self, lease_id, *rest)

    monkeypatch.setattr(SyncPrefectClient, "renew_concurrency_lease", fail_at_first)
    wait_until(lambda: len(failed) > 4)
    assert set(failed) == {lease}
    assert slots_taken(client) == 1
