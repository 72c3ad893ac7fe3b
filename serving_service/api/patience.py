"""How long a reader may take nothing of its answer, whichever way it comes: it holds a place in the batch and its adapter's slot.

One timer for the whole answer, which looks how long the send under way has taken: a time limit around each of them costs as much as the
sending. Owns the time. What happens to who takes nothing is the caller's.
"""

import asyncio
import math
from collections.abc import Callable

SECONDS = 60.0


class Patience:
    """With one reader, until `close`.

    Args:
        over: called once, when a send has taken too long.
    """

    def __init__(self, over: Callable[[], None]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), over
        self._since = math.inf
        self._timer = self._loop.call_later(SECONDS, self._look)

    def sending(self) -> None:
        """Something is being sent from now on."""
        self._since = self._loop.time()

    def sent(self) -> None:
        """It was taken."""
        self._since = math.inf

    def close(self) -> None:
        """Looks no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        left = SECONDS - (self._loop.time() - self._since) if self._since < math.inf else SECONDS
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._over()
