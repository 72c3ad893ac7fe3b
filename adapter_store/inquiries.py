"""Questions to the store, one at a time for each name, in threads of their own.

Owns who waits for whose answer. Does not own whether the store may be asked (`outage`) nor what is kept of answers.
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from adapter_store.outage import Outage, Turn

_THREADS = 8
"""Questions at once; more wait. Their own, so that a store that hangs takes no thread from anybody's other work."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Inquiries(Generic[K, V]):
    """Asks once for all who want the same answer at the same time. Thread-safe.

    Args:
        outage: what is known of the store; shared by all that ask the same one.
    """

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._lock = threading.Lock()
        self._flights: dict[K, Future[V]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-question")

    def ask(self, name: K, question: Callable[[], V]) -> "Future[V]":
        """Returns what will be the answer to the question that is under way for a name, else to this one.

        Whoever stops waiting leaves the question to run: its answer still reaches the others, and what it keeps.

        Args:
            name: what is asked about.
            question: asks the store; runs in another thread.

        Raises:
            StoreUnavailable: at once, while the store is away; now and then one caller's question is let through.
        """
        with self._lock:
            if (flight := self._flights.get(name)) is not None:
                self._outage.check()  # else its callers would wait for as long as the store's retries take
                return flight
            turn = self._outage.turn()
            flight = Future()
            flight.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it for the others
            self._flights[name] = flight
        self._pool.submit(self._run, name, flight, turn, question)
        return flight

    def wait(self, flight: "Future[V]", patience_s: float) -> V:
        """Returns the answer for somebody who knows an older one.

        Args:
            flight: from `ask`.
            patience_s: how long to wait at most; shorter while the store is slow or away.

        Raises:
            TimeoutError: it is not there yet; use what you know.
            Exception: what the question raised.
        """
        try:
            return flight.result(self._outage.patience(patience_s))
        except TimeoutError:
            self._outage.suspect()
            raise

    def _run(self, name: K, flight: "Future[V]", turn: Turn, question: Callable[[], V]) -> None:
        error: BaseException | None = None
        try:
            answer = question()
        except BaseException as raised:  # all of it belongs to those who wait
            error = raised
        self._outage.end(turn, error)
        with self._lock:
            del self._flights[name]  # before the answer is known: who finds it too old asks again
        if error is None:
            flight.set_result(answer)
        else:
            flight.set_exception(error)
