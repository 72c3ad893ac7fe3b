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
        self._settled = asyncio.Event()  # nothing is waited for: requests are taken, or there are none
        self._settled.set()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Counts a request inside the block. Raises Draining when none is taken."""
        if not self._taking:
            raise Draining("this node takes no requests now; send the request again, another one will take it")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            self._settle()

    def take(self, taking: bool) -> None:
        """Takes requests from now on, or refuses them."""
        self._taking = taking
        self._settle()

    async def over(self, seconds: float) -> None:
        """Returns when none is under way, requests are taken again, or so much time has passed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), seconds)

    def _settle(self) -> None:
        if self._taking or not self.count:
            self._settled.set()
        else:
            self._settled.clear()
