"""Work on the newest of what comes, in a thread of its own, so that nobody waits for it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Condition
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """Calls ``handle`` with the newest item that was `put`, one at a time.

    An item that still waits when a newer one comes is dropped. After each call it rests for
    ``pause_s``. Leaving the block ends the rest and waits until the last item is handled, also
    after an error. An error of ``handle`` ends the work and is raised by the next `put`, or as
    the block ends. ``handle`` runs in a copy of the context of whoever entered the block:
    Prefect knows the task run there.
    """

    def __init__(self, handle: Callable[[Item], None], *, pause_s: float = 0.0) -> None:
        self._handle, self._pause_s = handle, pause_s
        self._waiting: list[Item] = []
        self._changed = Condition()
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="newest")
        self._work: Future[None] | None = None

    def __enter__(self) -> Self:
        self._work = self._pool.submit(copy_context().run, self._work_on)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pool.shutdown()
        assert self._work is not None
        if kind is None:  # else the block's own error comes first
            self._work.result()

    def put(self, item: Item) -> list[Item]:
        """Hand ``item`` over; returns what is dropped for it, an item or none."""
        assert self._work is not None, "entered"
        if self._work.done():
            self._work.result()
        with self._changed:
            dropped, self._waiting = self._waiting, [item]
            self._changed.notify()
        return dropped

    def _work_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                item = self._waiting.pop()
            self._handle(item)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=self._pause_s)
