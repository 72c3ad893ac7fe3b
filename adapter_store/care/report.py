"""What care says while it works and at its end, as JSON lines on standard output.

Owns the lines' forms; `graftwork.local.store_care` reads them. One line is `{"progress": ...}`, `{"finding": ...}`,
`{"result": ...}` or `{"error": ...}`; exactly one result or error comes, last.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol, TextIO

_INTERVAL_S = 0.1  # between two lines about the same phase


class Severity(StrEnum):
    """How bad a finding is."""

    DAMAGED = "damaged"
    """Something is lost or unreadable, or will be."""
    WARNING = "warning"
    """Everything works; somebody should look."""
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an operator should know about an object."""

    severity: Severity
    key: str
    what: str
    todo: str


class Report(Protocol):
    """Takes what care has to say."""

    def progress(self, phase: str, done: int, total: int | None, unit: str = "objects") -> None:
        """Says how far a phase is.

        Args:
            phase: for people.
            done: so far.
            total: in the end, None when nobody knows.
            unit: 'objects' or 'bytes'.
        """
        ...

    def finding(self, finding: Finding) -> None:
        """Says what was found."""
        ...


class Lines:
    """Implements `Report` on a stream. Safe to use from several threads.

    Args:
        stream: takes the lines.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._phase, self._next = "", 0.0
        self._held: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def progress(self, phase: str, done: int, total: int | None, unit: str = "objects") -> None:
        progress = {"phase": phase, "done": done, "total": total, "unit": unit}
        with self._lock:
            now = self._clock()
            if phase == self._phase and now < self._next and done != total:
                self._held = progress
                return
            if phase != self._phase:
                self._let_go()
            self._phase, self._next, self._held = phase, now + _INTERVAL_S, None
            self._write("progress", progress)

    def finding(self, finding: Finding) -> None:
        with self._lock:
            self._write("finding", asdict(finding))

    def result(self, result: dict[str, Any]) -> None:
        """Says that the work is done."""
        with self._lock:
            self._let_go()
            self._write("result", result)

    def error(self, reason: str) -> None:
        """Says that it could not be done."""
        with self._lock:
            self._write("error", {"reason": reason})

    def _let_go(self) -> None:
        """Writes how far a phase came in the end, if that was too soon after the line before it."""
        if self._held:
            self._write("progress", self._held)
            self._held = None

    def _write(self, kind: str, value: dict[str, Any]) -> None:
        self._stream.write(json.dumps({kind: value}, ensure_ascii=False, default=str) + "\n")
        self._stream.flush()
