"""Latencies of the last five to ten minutes, in a bounded amount of memory. Owns the window. Does not own percentiles (`rolling`)."""

from collections.abc import Callable

from serving_service.core.rolling import Latencies

_SECONDS = 300.0


class Recent:
    """Two histograms, of these five minutes and of the five before.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._number = clock, 0
        self._now, self._before = Latencies(), Latencies()

    def take(self, seconds: float) -> None:
        """Counts one."""
        self._turn()
        self._now.take(seconds)

    def taken(self) -> Latencies:
        """Returns what was counted."""
        self._turn()
        both = Latencies()
        both.merge(self._now)
        both.merge(self._before)
        return both

    def _turn(self) -> None:
        number = int(self._clock() // _SECONDS)
        if number != self._number:
            self._before = self._now if number == self._number + 1 else Latencies()
            self._now, self._number = Latencies(), number
