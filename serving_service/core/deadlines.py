"""Ends an await when the caller's time is over.

Owns turning a passed deadline into the core's error. One await at a time: a time limit around a whole stream would fire
while the stream's reader has the turn, and cancel the reader.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving_service.core.errors import DeadlinePassed


@asynccontextmanager
async def within(deadline: float | None, doing: str) -> AsyncIterator[None]:
    """Cancels what is awaited inside the block at the deadline; there must be no `yield` inside.

    Args:
        deadline: of `time.monotonic()`, which is the event loop's clock too; None is never.
        doing: for the message: 'the request waited for its turn'.

    Raises:
        DeadlinePassed: it has passed.
    """
    if deadline is None:
        yield
        return
    try:
        async with asyncio.timeout_at(deadline) as limit:
            yield
    except TimeoutError:
        if not limit.expired():  # somebody else's time limit
            raise
        raise DeadlinePassed(
            f"the caller's time was over while {doing}; allow more time, or send fewer requests at once"
        ) from None
