"""Threads that work beside something more urgent. Owns their priority and when they go on, not what they do."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable


def step_back(nice: int) -> None:
    """Lowers this thread's priority by so much (to 19 at most); threads that it starts later do as it does. Where a thread has no priority
    of its own, or may not change it, nothing happens."""
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + nice))


class Lull:
    """Tells such a thread when to do its next piece: after a pause, and not while what it prepares for happens again and again.

    Args:
        pause_s: between pieces.
        quiet_s: without a use, before the next piece.
    """

    def __init__(self, pause_s: float, quiet_s: float) -> None:
        self._pause_s, self._quiet_s = pause_s, quiet_s
        self._changed, self._closed = threading.Condition(), False
        self._used = float("-inf")

    def used(self) -> None:
        """Notes a use; from any thread, after what it changes."""
        with self._changed:
            self._used = time.monotonic()
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, needed: Callable[[], bool]) -> bool:
        """Waits for the next piece's time; only the pause while `needed`, which is asked again after each use.

        Returns:
            Whether there is to be one: not after `close`.
        """
        pause = time.monotonic() + self._pause_s
        with self._changed:
            while not self._closed:
                due = pause if needed() else max(pause, self._used + self._quiet_s)
                if (left := due - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return not self._closed
