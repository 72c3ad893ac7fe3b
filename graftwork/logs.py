"""Structured logs on standard error: one JSON object a line, or coloured text on a terminal. No prompt, no key."""

import contextlib
import io
import logging
import sys
from typing import TextIO

import structlog


class _Unfailing(io.TextIOBase):
    """Loses a line rather than raise: a log on a full disk must not fail the calls and jobs that it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure_logs(service: str, level: str = "INFO") -> None:
    """Sets up structlog for a process; call once, first thing in `__main__`.

    Args:
        service: goes into every line.
        level: DEBUG, INFO, WARNING or ERROR.
    """
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.MaybeTimeStamper(fmt="iso", utc=True),  # late lines have theirs
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(_Unfailing(sys.stderr)),  # type: ignore[arg-type]  # write and flush are all it calls
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
