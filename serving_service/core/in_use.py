"""What the store was asked lately is asked again before the answer is too old: a request seldom waits for the store.

A name means what the store says now, so an answer is trusted for a second; a tenant that sends a request every other second would have
each of them wait for a look-up, and beside much other work for a thread's turn, too. Here names that were used within the
last seconds are asked for again, one after the other and evenly over time, so that many of them never come at once.

Owns what is in use and the rhythm. Does not own the answers nor how old one may be: whoever finds one too old asks as ever, which is
what happens to more names than are kept here.
"""

import asyncio
import contextvars
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from graftwork.errors import GraftError

IN_USE_S = 15.0
"""After its last use a name is let go."""
MOST = 16
"""Names, those used last. In every round each costs the store up to three reads."""

log = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)


class NamesInUse(Generic[K]):
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
        self._turns: deque[K] = deque()  # the same names; who is asked for next is first
        self._asking: dict[K, asyncio.Task[None]] = {}
        self._rounds: asyncio.Task[None] | None = None
        self._closed = False
        # Not that of the request that happens to come first, whose id would be in every line of the log.
        self._context = contextvars.copy_context()

    def used(self, name: K) -> None:
        """Notes that a name was used, and is known; on the event loop."""
        if self._closed:
            return
        if name not in self._used:
            self._turns.append(name)
        self._used[name] = self._clock()
        self._used.move_to_end(name)
        while len(self._used) > MOST:
            self._let_go(next(iter(self._used)))
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._go_round(), name="names in use", context=self._context)

    async def close(self) -> None:
        """Asks no more; questions that threads are at end by themselves."""
        self._closed = True
        tasks = [*self._asking.values(), *([self._rounds] if self._rounds else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._asking.clear()  # those that had not begun

    def _let_go(self, name: K) -> None:
        if self._used.pop(name, None) is not None:
            self._turns.remove(name)

    async def _go_round(self) -> None:
        try:
            while self._turns:
                # First, for the answer that brought a name in here is fresh.
                await self._sleep(self._round_s / len(self._turns))
                if not self._turns:
                    return
                name = self._turns[0]
                if self._clock() - self._used[name] > IN_USE_S:
                    self._let_go(name)
                    continue
                self._turns.rotate(-1)
                # Not waited for: one slow answer would make all others late.
                if name not in self._asking:
                    self._asking[name] = asyncio.create_task(self._ask_for(name), name="name in use")
        finally:
            self._rounds = None

    async def _ask_for(self, name: K) -> None:
        """What has no answer is let go: the next request that uses it asks by itself, and is told what is wrong."""
        try:
            if not await self._ask(name):
                self._let_go(name)
        except GraftError as error:
            log.debug("a name in use was not asked for again", cause=str(error))
            self._let_go(name)
        except Exception as error:  # of one name; the others' rounds go on
            log.warning("a name in use was not asked for again", cause=f"{type(error).__name__}: {error}")
            self._let_go(name)
        finally:
            self._asking.pop(name, None)
