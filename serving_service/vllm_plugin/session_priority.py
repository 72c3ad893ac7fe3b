"""Which session the kernel serves first while an adapter is loaded beside steps.

Where no container's or unit's own group does it, Linux shares the cores between sessions first, and only within one by its threads'
nice values (sched_autogroup). Whoever loads the adapter steps back within ours; a store's server on the same machine is a session of its
own, and each of its processes may be: together they took two thirds of the core that a step was computed on (a step of 166 ms that had
0.35 of a core; docs/benchmarks.md). So while a load is under way the session goes before others.

Owns the session's nice value. Nothing happens where there is none, or where this process may not raise it (it takes CAP_SYS_NICE). Who has
not CAP_SYS_ADMIN too may change it every 0.1 s only, so that it may be put back a little later. An engine that dies during a load leaves the
session raised; the next one's next load puts it back.
"""

import re
import threading
from pathlib import Path

FIRST = -9
"""Seven times the weight of a session of usual priority. A value that nobody else is likely to have chosen: who finds it knows that it was
left behind."""
AGAIN_S = 0.15


class SessionPriority:
    """Raises it and puts it back.

    Args:
        file: the kernel's, of this process.
    """

    def __init__(self, file: Path = Path("/proc/self/autogroup")) -> None:
        self._file, self._lock = file, threading.Lock()
        self._usual: int | None = None  # what to put back
        self._wanted = False

    def raised(self, on: bool) -> bool:
        """Raises it or puts it back; from any thread.

        Returns:
            Whether it is raised.
        """
        with self._lock:
            self._wanted = on
            return self._settled()

    def _settled(self) -> bool:
        """Brings it to what is wanted, as far as it may be; under the lock."""
        if self._wanted and self._usual is None:
            usual = self._read()
            if usual == FIRST:
                self._usual = 0
            elif usual is not None and usual > FIRST and self._write(FIRST):
                self._usual = usual
        elif not self._wanted and self._usual is not None and self._write(self._usual):
            self._usual = None
        return self._usual is not None

    def _again(self) -> None:
        with self._lock:
            self._settled()

    def _read(self) -> int | None:
        try:
            found = re.search(r"nice (-?\d+)", self._file.read_text())
        except OSError:  # another system, or one without
            return None
        return int(found[1]) if found else None

    def _write(self, nice: int) -> bool:
        try:
            self._file.write_text(f"{nice}\n")
        except BlockingIOError:  # it was changed a moment ago
            later = threading.Timer(AGAIN_S, self._again)
            later.daemon = True
            later.start()
            return False
        except OSError:  # not ours to raise
            return False
        return True
