"""Whether a node takes requests, how many are under way, and the wait for the last of them.

Owns the count and the refusal. Does not own places or turns (`admission`), nor how it is told to load balancers (`readiness`).
"""

import asyncio
import contextlib
from collections.abc import Iterator

from serving_service.core.errors import Draining


class UnderWay:
    """The requests of one node.

    Attributes:
        count: those that have come and have not ended.
    """

    def __init__(self) -> None:
        self.count = 0
        self._taking = True
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Counts a request inside the block. Raises Draining when none is taken."""
        if not self._taking:
            raise Draining("this node takes no requests now; send the request again, another one will take it")
        self.count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.count -= 1
            if not self.count:
                self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Takes no new ones and waits for those under way; False when some are left after `seconds`."""
        self._taking = False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return not self.count

    def resume(self) -> None:
        """Takes them again."""
        self._taking = True
