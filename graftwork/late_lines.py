"""Lines of the access logs, written once the answers that they tell of are out.

Answers of one batch often end in the same step, and then each caller's next request waits behind all that is done for the others' ends.
Two lines of log were a third of that. Written a moment later they are in nobody's way, and cost the same. A line says when it was said.

Owns the waiting. A process that ends in order writes what is left; who wants it sooner calls `flush`.
"""

import asyncio
import atexit
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

DELAY_S = 0.03
"""Longer than it takes the callers of a batch to come back."""
MOST = 1000
"""Lines that wait; with more, each new one has the oldest written, so that who says much is slowed down by it."""
_AT_ONCE_S = 0.001
"""Others' tokens wait no longer than that."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Line:
    """What waits. It keeps nothing of the call alive that `fields` does not."""

    due: float
    said: float
    around: Mapping[str, Any]
    logger: Any
    level: int
    event: str
    fields: Callable[[], Mapping[str, Any]]

    def write(self) -> None:
        said = datetime.fromtimestamp(self.said, UTC).isoformat().replace("+00:00", "Z")
        try:
            self.logger.log(self.level, self.event, **{**self.around, **self.fields(), "timestamp": said})
        except Exception:  # those behind it are others'
            log.exception("a line of the log could not be made", line=self.event)


_waiting: deque[_Line] = deque()
_looking: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def log_late(logger: Any, level: int, event: str, fields: Callable[[], Mapping[str, Any]]) -> None:
    """Logs a moment later; at once where no event loop runs.

    Args:
        logger: structlog's.
        level: as logging's.
        event: what happened.
        fields: asked for when the line is written; what it refers to is kept until then.
    """
    now = time.monotonic()
    around = structlog.contextvars.get_contextvars()
    _waiting.append(_Line(now + DELAY_S, time.time(), around, logger, level, event, fields))
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        flush()
        return
    if len(_waiting) > MOST and (oldest := _take()):
        oldest.write()
    if loop not in _looking:
        _looking.add(loop)
        loop.call_later(DELAY_S, _look, loop, context=Context())


def flush() -> None:
    """Writes all that waits, now."""
    while line := _take():
        line.write()


def _look(loop: asyncio.AbstractEventLoop) -> None:
    end = time.monotonic() + _AT_ONCE_S
    while (now := time.monotonic()) < end and (line := _take(due=now)):
        line.write()
    try:
        wait = _waiting[0].due - time.monotonic()
    except IndexError:
        _looking.discard(loop)
        return
    # A context of its own: the caller's would be kept, and what it holds, for as long as lines come.
    loop.call_later(max(0.0, wait), _look, loop, context=Context())


def _take(due: float | None = None) -> _Line | None:
    """The oldest, if it is due; another thread's loop may take it at the same time."""
    try:
        line = _waiting.popleft()
    except IndexError:
        return None
    if due is not None and line.due > due:
        _waiting.appendleft(line)
        return None
    return line


atexit.register(flush)
