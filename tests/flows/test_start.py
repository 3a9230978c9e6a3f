"""What a flow asks when it was started more than once, and its turn at the device."""

import signal
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx
import pytest
from prefect import flow, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import AwaitingRetry, Crashed, Running
from prefect.testing.utilities import prefect_test_harness

from cxr_model.errors import StackError
from flows import start
from flows.start import MOST_STARTS, require_current, started_again, turn_at

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


def test_a_process_whose_run_another_one_took_over_publishes_nothing() -> None:
    @flow
    def cut_off() -> None:
        require_current()
        with get_client(sync_client=True) as client:
            for state in (Crashed(), AwaitingRetry()):
                client.set_flow_run_state(UUID(runtime.flow_run.id), state, force=True)
            require_current()  # nobody has begun yet: it may finish what it has
            client.set_flow_run_state(UUID(runtime.flow_run.id), Running(), force=True)
        require_current()

    with pytest.raises(StackError, match="start 2 of the run is at work on it, this is number 1"):
        cut_off()


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


def test_a_turn_that_ran_out_is_taken_again(lease: UUID, client: SyncPrefectClient) -> None:
    assert start._take(client, LIMIT) is None  # nobody else gets it while it is held
    client.release_concurrency_slots_with_lease(lease)
    wait_until(lambda: slots_taken(client) == 1)


def test_who_lost_its_turn_to_another_run_is_told_to_end(
    lease: UUID, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(start.os, "kill", lambda _, number: told.append(number))
    take = start._take
    other: list[UUID] = []

    def take_later(client: SyncPrefectClient, limit: str) -> UUID | None:
        found = take(client, limit)
        assert found
        other.append(found)
        return None

    monkeypatch.setattr(start, "_take", take_later)
    client.release_concurrency_slots_with_lease(lease)
    wait_until(lambda: bool(told))
    assert told == [signal.SIGTERM]
    client.release_concurrency_slots_with_lease(other[0])


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
