"""Failed sign-ins by address, so that the console is no place to guess keys at.

The services see all of the console's visitors under one address, and may refuse it as a whole: it has to be stricter.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from graftwork.console.errors import TooMany

_WINDOW_S = 60.0
_MAX_ADDRESSES = 10_000


class Attempts:
    """Counts failures over the last minute, in bounded memory.

    Args:
        most: failures of one address in a minute.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises TooMany for an address that has failed too often."""
        with self._lock:
            failed = self._failed.get(address)
            if failed is None:
                return
            now = self._clock()
            while failed and now - failed[0] > _WINDOW_S:
                failed.popleft()
            if not failed:
                del self._failed[address]
            elif len(failed) >= self._most:
                raise TooMany(f"too many keys were refused; wait {_WINDOW_S - (now - failed[0]):.0f} s and try again")

    def failed(self, address: str) -> None:
        """Counts one more. The addresses that failed longest ago make room."""
        with self._lock:
            self._failed.setdefault(address, deque(maxlen=self._most)).append(self._clock())
            self._failed.move_to_end(address)
            if len(self._failed) > _MAX_ADDRESSES:
                self._failed.popitem(last=False)
