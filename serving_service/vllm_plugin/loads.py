"""Whether adapters are loaded beside the steps: what these take then says nothing of them, and a prompt among them takes longer.

Owns what this process knows of it. The worker tells; the scheduler asks where both are in one process, as they are on CPUs.
"""

import time
from collections.abc import Callable

STILL_S = 0.3
"""After a load, that the store, the caches and the adapter's first request have the cores. Its prompt's step, whole, was the longest of
all that others waited for in a load: 62 to 108 ms."""


class Loads:
    """Of this process.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way, self._ended = False, float("-inf")

    def tell(self, under_way: bool) -> None:
        """Some are under way now, or none; from any thread."""
        if self._under_way and not under_way:
            self._ended = self._clock()
        self._under_way = under_way

    def felt(self) -> bool:
        """Whether steps feel one: it is under way, or was a moment ago."""
        return self._under_way or self._clock() - self._ended < STILL_S


loads = Loads()
