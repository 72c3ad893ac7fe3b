"""Inter-token gaps of streams that go on by themselves, in quiet and under disturbance."""

import itertools
import statistics
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Stream:
    """One endless stream of token times, kept up by a thread: as an answer ends, the next begins.

    Attributes:
        answer: starts an answer and yields the time of each token.
    """

    answer: Callable[[], Iterator[float]]
    times: list[list[float]] = field(default_factory=list)
    """Of each answer; gaps are within one."""
    error: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it and raises what had ended it before."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                seen: list[float] = []
                self.times.append(seen)
                for moment in self.answer():
                    seen.append(moment)
                    if self._stop.is_set():
                        break
        except BaseException as error:  # handed to whoever stops it
            self.error = error

    def gaps(self, start: float, end: float) -> list[float]:
        """Seconds between tokens, of gaps that touch the time from `start` to `end`."""
        return [
            later - earlier
            for seen in self.times
            for earlier, later in itertools.pairwise(seen)
            if later > start and earlier < end
        ]


def p99(values: list[float]) -> float:
    """The 99th percentile; of fewer than 100 values the largest."""
    return statistics.quantiles(values, n=100)[98] if len(values) >= 100 else max(values)
