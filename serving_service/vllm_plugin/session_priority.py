"""Which session the kernel serves first while an adapter is loaded beside steps.

Where no container's or unit's own group does it, Linux shares the cores between sessions first, and only within one by its threads'
nice values (sched_autogroup). Whoever loads the adapter steps back within ours; a store's server on the same machine is a session of its
own, and each of its processes may be: together they took two thirds of the core that a step was computed on (a step of 166 ms that had
0.35 of a core; docs/benchmarks.md). So while a load is under way the session goes before others.

Owns the session's nice value. Nothing happens where there is none, or where this process may not raise it (it takes CAP_SYS_NICE).
"""

import re
import threading
from pathlib import Path

FIRST = -10
"""Nine times the weight of a session of usual priority."""


class SessionPriority:
    """Raises it and puts it back.

    Args:
        file: the kernel's, of this process.
    """

    def __init__(self, file: Path = Path("/proc/self/autogroup")) -> None:
        self._file, self._lock = file, threading.Lock()
        self._usual: int | None = None  # what to put back

    def raised(self, on: bool) -> bool:
        """Raises it or puts it back; from any thread.

        Returns:
            Whether it is raised.
        """
        with self._lock:
            if on and self._usual is None:
                usual = self._read()
                if usual is not None and usual > FIRST and self._write(FIRST):
                    self._usual = usual
            elif not on and self._usual is not None and self._write(self._usual):
                self._usual = None
            return self._usual is not None

    def _read(self) -> int | None:
        try:
            found = re.search(r"nice (-?\d+)", self._file.read_text())
        except OSError:  # another system, or one without
            return None
        return int(found[1]) if found else None

    def _write(self, nice: int) -> bool:
        try:
            self._file.write_text(f"{nice}\n")
        except OSError:  # not ours to raise
            return False
        return True
