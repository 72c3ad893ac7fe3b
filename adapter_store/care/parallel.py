"""Many requests at once, without holding them all: the store's answers are what care waits for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 2  # calls begun per thread: one runs, one waits


def each(work: Callable[[T], R], items: Iterable[T], parallel: int) -> Iterator[R]:
    """Yields `work(item)` in the items' order, working on several at once; takes items only as they are needed.

    Args:
        work: called in threads; with `parallel` 1 in this one.
        items: read in this thread.
        parallel: threads.

    Raises:
        Exception: whatever `work` raised, at its item's turn; what was begun ends first, nothing more is begun.
    """
    if parallel == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(parallel, thread_name_prefix="care") as pool:
        flights: deque[Future[R]] = deque()
        try:
            for item in items:
                flights.append(pool.submit(work, item))
                if len(flights) >= parallel * _AHEAD:
                    yield flights.popleft().result()
            while flights:
                yield flights.popleft().result()
        finally:
            for flight in flights:
                flight.cancel()
