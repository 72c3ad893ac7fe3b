"""What the store was asked lately is asked again before the answer is too old: a request seldom waits for the store.

A name means what the store says now, so an answer is trusted for a second; a tenant that sends a request every other second would have
each of them wait for a look-up, and beside much other work for a thread's turn, too. Here names that were used within the
last seconds are asked for again by one task, one after the other and evenly over time, so that many of them never come at once.

Owns what is in use and the rhythm. Does not own the answers nor how old one may be: whoever finds one too old asks as ever, which is
what happens to more names than are kept here.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from graftwork.errors import GraftError

IN_USE_S = 20.0
"""After its last use a name is let go."""
MOST = 24
"""Names, those used last. Each costs the store a read in every round."""

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)


class InUse(Generic[K]):
    """Asks again for what is in use, while anything is.

    Args:
        ask: asks the store for a name and keeps the answer; returns whether there was one that is worth asking for again.
        round_s: in which each name is asked for once; less than an answer is trusted for.
        clock: seconds, monotonic.
        sleep: waits so many seconds; replaced in tests, as the clock is.
    """

    def __init__(
        self,
        ask: Callable[[K], Awaitable[bool]],
        round_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ask, self._round_s, self._clock, self._sleep = ask, round_s, clock, sleep
        self._used: OrderedDict[K, float] = OrderedDict()  # when last; that one is last
        self._rounds: asyncio.Task[None] | None = None

    def used(self, name: K) -> None:
        """Notes that a name was used, and is known; on the event loop."""
        self._used[name] = self._clock()
        self._used.move_to_end(name)
        while len(self._used) > MOST:
            self._used.popitem(last=False)
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._go_round(), name="names in use")

    async def close(self) -> None:
        """Asks no more."""
        if (rounds := self._rounds) is not None:
            rounds.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await rounds

    async def _go_round(self) -> None:
        took = 0.0
        try:
            while self._used:
                for name in list(self._used):
                    # Before each, for the answer that brought a name in here is fresh.
                    await self._sleep(max(0.0, self._round_s / max(1, len(self._used)) - took))
                    began = self._clock()
                    if not await self._still(name):
                        self._used.pop(name, None)
                    took = self._clock() - began
        finally:
            self._rounds = None

    async def _still(self, name: K) -> bool:
        """Asks, where a name is in use; False lets it go. The next request that uses it asks by itself, and is told what is wrong."""
        if self._clock() - self._used.get(name, float("-inf")) > IN_USE_S:
            return False
        try:
            return await self._ask(name)
        except (GraftError, OSError) as error:
            log.debug("a name in use was not asked for again", cause=str(error))
            return False
