"""Ends an await when the caller's time is over.

Owns turning a passed deadline into the core's error. One await at a time: a time limit around a whole stream would fire
while the stream's reader has the turn, and cancel the reader.
"""

import asyncio
from types import TracebackType

from serving_service.core.errors import DeadlinePassed


class within:
    """Cancels what is awaited inside the block at the deadline; there must be no `yield` inside.

    Args:
        deadline: of `time.monotonic()`, which is the event loop's clock too; None is never.
        doing: for the message: 'the request waited for its turn'.

    Raises:
        DeadlinePassed: it has passed.
    """

    __slots__ = ("_deadline", "_doing", "_limit")

    def __init__(self, deadline: float | None, doing: str) -> None:
        self._deadline, self._doing = deadline, doing
        self._limit: asyncio.Timeout | None = None

    async def __aenter__(self) -> None:
        if self._deadline is not None:
            self._limit = asyncio.timeout_at(self._deadline)
            await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limit is None:
            return
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlinePassed(
                f"the caller's time was over while {self._doing}; allow more time, or send fewer requests at once"
            ) from None
