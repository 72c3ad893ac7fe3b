"""What of a call can wait until its answer has gone out: the lines of the access logs.

Answers of one batch often end in the same step, and then each caller's next request waits behind all that is done for the others' ends.
Two lines of log were a third of that. Done a moment later they are in nobody's way, and cost the same.

Owns the waiting. Nothing is lost at an orderly end of the process; whoever wants the lines sooner calls `flush`.
"""

import asyncio
import atexit
import contextvars
import time
import weakref
from collections import deque
from collections.abc import Callable

DELAY_S = 0.03
"""Longer than it takes the callers of a batch to come back; a line's time is late by as much."""
_AT_ONCE_S = 0.001
"""Others' tokens wait no longer than that."""

_waiting: deque[tuple[contextvars.Context, Callable[[], None]]] = deque()
_due: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
"""Loops that will look."""


def afterwards(call: Callable[[], None]) -> None:
    """Calls it a moment later, in the caller's context; at once where no event loop runs.

    Args:
        call: quick; it must not raise.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        call()
        return
    _waiting.append((contextvars.copy_context(), call))
    if loop not in _due:
        _due.add(loop)
        loop.call_later(DELAY_S, _look, loop)


def flush() -> None:
    """Calls all that waits, now."""
    while _waiting:
        _next()


def _look(loop: asyncio.AbstractEventLoop) -> None:
    end = time.monotonic() + _AT_ONCE_S
    try:
        while _waiting and time.monotonic() < end:
            _next()
    finally:
        if _waiting:
            loop.call_soon(_look, loop)
        else:
            _due.discard(loop)


def _next() -> None:
    context, call = _waiting.popleft()
    context.run(call)


atexit.register(flush)
