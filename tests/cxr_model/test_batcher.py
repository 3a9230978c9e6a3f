"""The batcher, with work that writes down its batches."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxr_model.batcher import Batcher, BatchLimits
from cxr_model.errors import ConfigError

Scenario = Callable[[Batcher[int, int]], Coroutine[None, None, None]]


class Doubling:
    """Doubles, after ``may_go``; of a negative number it raises."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        assert threading.current_thread() is not threading.main_thread()
        self.batches.append(list(items))
        assert self.may_go.wait(10)
        if min(items) < 0:
            raise ArithmeticError(f"{min(items)} is negative")
        return [2 * item for item in items]


@pytest.fixture
def work() -> Doubling:
    return Doubling()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def run(work: Doubling, executor: ThreadPoolExecutor) -> Callable[..., None]:
    def run(scenario: Scenario, max_size: int = 4, max_wait_s: float = 0.1) -> None:
        async def within() -> None:
            limits = BatchLimits(max_size=max_size, max_wait_s=max_wait_s)
            async with asyncio.timeout(10), Batcher(work, executor, limits) as batcher:
                await scenario(batcher)

        asyncio.run(within())

    return run


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_items_that_arrive_together_share_calls_and_keep_their_answers(
    run: Callable[..., None], work: Doubling
) -> None:
    async def scenario(batcher: Batcher[int, int]) -> None:
        answers = await asyncio.gather(*(batcher.submit(item) for item in range(10)))
        assert answers == [2 * item for item in range(10)]

    run(scenario)
    assert work.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_item_alone_waits_no_longer_than_it_may(
    run: Callable[..., None], work: Doubling
) -> None:
    async def scenario(batcher: Batcher[int, int]) -> None:
        started = time.monotonic()
        assert await batcher.submit(1) == 2
        assert 0.05 <= time.monotonic() - started < 1

    run(scenario, max_wait_s=0.05)
    assert work.batches == [[1]]


def test_what_comes_while_the_thread_is_busy_goes_on_together(
    run: Callable[..., None], work: Doubling
) -> None:
    async def scenario(batcher: Batcher[int, int]) -> None:
        work.may_go.clear()
        first = asyncio.create_task(batcher.submit(0))
        await until(lambda: work.batches == [[0]])
        others = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
        await asyncio.sleep(0.02)
        work.may_go.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4]

    run(scenario, max_wait_s=0.0)
    assert work.batches == [[0], [1, 2]]


def test_who_is_cancelled_leaves_the_batch_and_stops_nobody(
    run: Callable[..., None], work: Doubling
) -> None:
    async def scenario(batcher: Batcher[int, int]) -> None:
        work.may_go.clear()
        in_work = asyncio.create_task(batcher.submit(0))
        await until(lambda: work.batches == [[0]])
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0.01)
        in_work.cancel()
        tasks[1].cancel()
        await asyncio.sleep(0)
        work.may_go.set()
        results = await asyncio.gather(in_work, *tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1] == 2
        assert isinstance(results[2], asyncio.CancelledError)
        assert results[3] == 6

    run(scenario, max_wait_s=0.0)
    assert work.batches == [[0], [1, 3]]


def test_a_batch_of_cancelled_items_is_not_worked_on(
    run: Callable[..., None], work: Doubling
) -> None:
    async def scenario(batcher: Batcher[int, int]) -> None:
        task = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.1)
        assert await batcher.submit(2) == 4

    run(scenario, max_wait_s=0.05)
    assert work.batches == [[2]]


def test_an_error_is_told_to_its_batch_and_the_next_is_served(
    run: Callable[..., None], work: Doubling
) -> None:
    async def scenario(batcher: Batcher[int, int]) -> None:
        results = await asyncio.gather(
            batcher.submit(1), batcher.submit(-1), return_exceptions=True
        )
        assert [str(result) for result in results] == ["-1 is negative"] * 2
        assert await batcher.submit(3) == 6

    run(scenario)
    assert work.batches == [[1, -1], [3]]


@pytest.mark.parametrize("max_wait_s", [0.0, 1.0])
def test_who_waits_when_it_is_closed_is_cancelled(
    work: Doubling, executor: ThreadPoolExecutor, max_wait_s: float
) -> None:
    async def within() -> None:
        limits = BatchLimits(max_size=2, max_wait_s=max_wait_s)
        async with asyncio.timeout(10):
            async with Batcher(work, executor, limits) as batcher:
                work.may_go.clear()
                tasks = [asyncio.create_task(batcher.submit(item)) for item in range(3)]
                await until(lambda: len(work.batches) == 1)
            work.may_go.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)

    asyncio.run(within())


def test_each_batch_is_told_with_its_size(work: Doubling, executor: ThreadPoolExecutor) -> None:
    sizes: list[int] = []

    async def within() -> None:
        limits = BatchLimits(max_size=2, max_wait_s=0.01)
        async with Batcher(work, executor, limits, sizes.append) as batcher:
            await asyncio.gather(*(batcher.submit(item) for item in range(3)))

    asyncio.run(within())
    assert sizes == [2, 1]


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch size 0: use 1 \(no batching\) or more"):
        BatchLimits(max_size=0)
    with pytest.raises(ConfigError, match=r"waiting 5 s for a batch: use 0 to 1 second"):
        BatchLimits(max_wait_s=5)
