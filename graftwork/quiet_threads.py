"""Threads that work beside something more urgent. Owns their priority, not what they do."""

import contextlib
import os
import sys
import threading


def step_back(nice: int) -> None:
    """Lowers this thread's priority by so much (of 19); threads that it starts later do as it does. Where a thread has no priority of
    its own, or may not change it, nothing happens."""
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
