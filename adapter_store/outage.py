"""Whether the store answers, as the callers of one store know it together.

Owns the one thing that they share while it is away: whose turn it is to ask. Without it each name's first question would
wait for the store's own retries, seconds or minutes, although everybody knows by then. Does not own what a caller answers
instead, nor who waits for whom (`inquiries`).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from adapter_store.errors import CorruptBlob, CorruptRecord, NotFound, StoreUnavailable

PAUSE_S = 1.0
"""Between the beginnings of two questions while the store is away."""
SHORT_S = 0.25
"""What somebody who could do without waits for an answer of a store that is slow or away: one that is back answers in that."""
_ANSWERS = (NotFound, CorruptBlob, CorruptRecord)  # errors that only a store which answers can cause


@dataclass(frozen=True, slots=True)
class StoreState:
    """What is known of the store.

    Attributes:
        reachable: whether the last question was answered; a store that nobody has asked yet counts as reachable.
        since: when that began, UTC.
        cause: why it does not answer; empty while it does.
    """

    reachable: bool
    since: datetime
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to ask the store once.

    Attributes:
        began: seconds, of the outage's clock.
        alone: given out while the store was away: nobody else gets one until it has ended.
    """

    began: float
    alone: bool


class Outage:
    """Lets every question through while the store answers, and one a second, one at a time, while it does not.

    Thread-safe. Ends with the first answer, whoever gets it. Of questions side by side the one that was asked last says how the
    store is: an old failure does not begin an outage again, nor does an old answer that comes late end one.

    Args:
        clock: seconds, monotonic.
        pause_s: between the beginnings of two questions while the store is away.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, pause_s: float = PAUSE_S) -> None:
        self._clock, self._pause_s = clock, pause_s
        self._lock = threading.Lock()
        self._cause = ""
        self._away = self._slow = False
        self._since = datetime.now(UTC)
        self._next = self._newest = float("-inf")
        self._asking = False

    @property
    def state(self) -> StoreState:
        """What is known now; asks nobody."""
        with self._lock:
            return StoreState(not self._away, self._since, self._cause)

    def check(self) -> None:
        """Raises StoreUnavailable while the store is away."""
        with self._lock:
            if self._away:
                raise self._error()

    def suspect(self) -> None:
        """Says that somebody has waited for an answer long enough. It is no outage yet: the store may just be slow."""
        with self._lock:
            self._slow = True

    def patience(self, seconds: float) -> float:
        """How long to wait for an answer by somebody who could do without.

        Args:
            seconds: while nothing is wrong.
        """
        with self._lock:
            return min(seconds, SHORT_S) if self._away or self._slow else seconds

    def turn(self) -> Turn:
        """Takes the right to ask once; `end` gives it back.

        Raises:
            StoreUnavailable: the store is away, and somebody asks it now or has within the last second.
        """
        with self._lock:
            now = self._clock()
            if not self._away:
                return Turn(now, alone=False)
            if self._asking or now < self._next:
                raise self._error()
            self._asking, self._next = True, now + self._pause_s
            return Turn(now, alone=True)

    def end(self, turn: Turn, error: BaseException | None) -> None:
        """Says how a question ended.

        Args:
            turn: what it was asked with.
            error: what it raised; None for an answer. One that tells nothing about the store changes nothing.
        """
        with self._lock:
            if turn.alone:
                self._asking = False
            answered = error is None or isinstance(error, _ANSWERS)
            if turn.began < self._newest or not (answered or isinstance(error, StoreUnavailable)):
                return
            self._newest = turn.began
            if answered:
                self._slow = False
                self._change(False, "")
            else:
                if not self._away:
                    self._next = self._clock() + self._pause_s
                self._change(True, str(error))

    @contextmanager
    def question(self) -> Iterator[None]:
        """Asks the store inside the block. Raises StoreUnavailable instead of entering it, as `turn` does."""
        turn = self.turn()
        try:
            yield
        except BaseException as error:
            self.end(turn, error)
            raise
        self.end(turn, None)

    def _change(self, away: bool, cause: str) -> None:
        if away != self._away:
            self._away, self._since = away, datetime.now(UTC)
        self._cause = cause

    def _error(self) -> StoreUnavailable:
        # A new one each time: raised again and again, one object would collect the frames of all its callers.
        return StoreUnavailable(self._cause)
