"""The process whose memory this one computes with: who it is, and ending when it does.

What becomes of memory opened from a process that has ended is undefined in CUDA, so nothing may go on here then: no step
may begin, no answer may leave. Owns the watch. Linux.
"""

import os
import select
import signal
import sys
import threading
from pathlib import Path

Owner = list[int]
"""A process's id and when it started, in the kernel's ticks: ids are used again."""


def identity() -> Owner:
    """Returns what others know this process by."""
    return [os.getpid(), _started(os.getpid())]


def follow(owner: Owner) -> bool:
    """Ends this process, without any cleaning up, as soon as `owner` has ended.

    Returns:
        False, and nothing is watched, when it has ended already or the kernel offers no way to watch it.
    """
    pid, started = owner
    try:
        watched = os.pidfd_open(pid)
        if _started(pid) != started:  # after the line above: from there on the id cannot pass to another one unseen
            os.close(watched)
            return False
    except (AttributeError, OSError):
        return False
    threading.Thread(target=_end_with, args=(watched, pid), name="owner of the weights", daemon=True).start()
    return True


def _end_with(watched: int, pid: int) -> None:
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.poll()
    sys.stderr.write(f"process {pid}, whose weights this engine computes with, has ended: so does this one\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _started(pid: int) -> int:
    # The name in brackets may hold spaces and brackets; the start is the 22nd field of proc(5), the 20th after it.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
