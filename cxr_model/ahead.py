"""Work done by threads a little ahead of whoever takes the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    num_ahead: int,
) -> Iterator[Result]:
    """Results in the order of ``items``, which are taken at most ``num_ahead`` in front.

    What ``function`` raises is raised in its place; no further item is begun then.
    """
    pool = ThreadPoolExecutor(num_threads)
    queue: deque[Future[Result]] = deque()
    try:
        for item in items:
            queue.append(pool.submit(function, item))
            if len(queue) > num_ahead:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
