"""Whoever brings items never waits, and the last item is always handled."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from threading import Event, get_ident

import pytest

from tasks.newest import Newest


def test_items_come_in_order_in_one_other_thread_and_the_last_always() -> None:
    handled: list[int] = []
    threads: set[int] = set()

    def handle(item: int) -> None:
        handled.append(item)
        threads.add(get_ident())

    with Newest(handle) as newest:
        for item in range(500):
            newest.put(item)
    assert handled == sorted(set(handled))
    assert handled[-1] == 499
    assert len(threads) == 1
    assert get_ident() not in threads


def test_a_slow_handler_holds_nobody_and_what_waits_gives_way_to_the_newer() -> None:
    handled: list[int] = []
    begun, may_go_on = Event(), Event()

    def handle(item: int) -> None:
        handled.append(item)
        begun.set()
        assert may_go_on.wait(10)

    with Newest(handle) as newest:
        assert newest.put(1) == []
        assert begun.wait(10)
        assert newest.put(2) == []
        assert newest.put(3) == [2]
        may_go_on.set()
    assert handled == [1, 3]


def test_a_pause_thins_items_out_and_ends_with_the_block() -> None:
    handled: list[int] = []
    begun = Event()

    def handle(item: int) -> None:
        handled.append(item)
        begun.set()

    started = time.monotonic()
    with Newest(handle, pause_s=60) as newest:
        newest.put(1)
        assert begun.wait(10)
        for item in (2, 3, 4):
            newest.put(item)
    assert handled == [1, 4]
    assert time.monotonic() - started < 10


def put_and_fail(handle: Callable[[int], object]) -> None:
    with Newest(handle) as newest:
        newest.put(1)
        raise KeyError("work")


def put_until_it_fails(handle: Callable[[int], object]) -> None:
    with Newest(handle) as newest:
        while True:
            newest.put(1)


def put_once(handle: Callable[[int], object]) -> None:
    with Newest(handle) as newest:
        newest.put(1)


def test_the_last_item_is_handled_when_the_block_fails() -> None:
    handled: list[int] = []
    with pytest.raises(KeyError, match="work"):
        put_and_fail(handled.append)
    assert handled == [1]


def test_an_error_of_the_handler_is_raised_where_the_items_come_from() -> None:
    for bring in (put_until_it_fails, put_once):
        with pytest.raises(ZeroDivisionError):
            bring(lambda _: 1 / 0)
    with pytest.raises(KeyError, match="work"):  # the block's own error comes first
        put_and_fail(lambda _: 1 / 0)


def test_the_handler_sees_the_context_of_whoever_entered() -> None:
    seen: list[str] = []
    name: ContextVar[str] = ContextVar("name")
    name.set("task run")
    with Newest(lambda _: seen.append(name.get())) as newest:
        newest.put(None)
    assert seen == ["task run"]
