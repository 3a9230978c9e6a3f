"""Dynamic batching: items that arrive within milliseconds of each other share one call.

One consumer takes items from a queue and hands them to ``work`` in a thread, so the event
loop stays free. An item waits at most ``max_wait_s`` for company, counted from its arrival:
what came while the thread was busy goes on at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from cxr_model.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    max_size: int = 16
    """Items in one call."""
    max_wait_s: float = 0.005
    """Time that an item alone waits for others."""

    def __post_init__(self) -> None:
        if self.max_size < 1:
            raise ConfigError(f"batch size {self.max_size}: use 1 (no batching) or more")
        if not 0 <= self.max_wait_s <= 1:
            raise ConfigError(f"waiting {self.max_wait_s} s for a batch: use 0 to 1 second")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    answer: "asyncio.Future[Result]"
    since: float


class Batcher(Generic[Item, Result]):
    """``async with Batcher(work, executor, limits) as batcher: await batcher.submit(item)``.

    ``work`` gets 1 to ``max_size`` items in the order of their arrival and returns a result
    for each. What it raises is raised to all that wait for this batch, and the next is
    served. The queue has no bound of its own: bound the callers.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        executor: Executor,
        limits: BatchLimits,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._work = work
        self._executor = executor
        self._limits = limits
        self._on_batch = on_batch
        self._queue: asyncio.Queue[_Waiting[Item, Result]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._consumer = asyncio.create_task(self._consume())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Whoever still waits is cancelled."""
        self._consumer.cancel()
        await asyncio.gather(self._consumer, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait().answer.cancel()

    async def submit(self, item: Item) -> Result:
        """The result of ``item``. A caller that is cancelled takes its item out of its batch."""
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(item, loop.create_future(), loop.time())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def _consume(self) -> None:
        while True:
            batch: list[_Waiting[Item, Result]] = []
            try:
                await self._fill(batch)
                await self._answer([waiting for waiting in batch if not waiting.answer.done()])
            finally:
                for waiting in batch:
                    waiting.answer.cancel()  # does nothing to those that are answered

    async def _fill(self, batch: list[_Waiting[Item, Result]]) -> None:
        batch.append(await self._queue.get())
        with suppress(TimeoutError):
            async with asyncio.timeout_at(batch[0].since + self._limits.max_wait_s):
                while len(batch) < self._limits.max_size:
                    batch.append(await self._queue.get())

    async def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        if not batch:  # all were cancelled while they waited
            return
        self._on_batch(len(batch))
        items = [waiting.item for waiting in batch]
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._work, items)
        except Exception as error:  # for those whose batch it ended, not for the consumer
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        else:
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(result)
