"""Whether the kernel's out-of-memory killer was at work.

A worker that it killed looks like any other `kill -9`. Linux counts its victims (`oom_kill` in /proc/vmstat, since
4.13, those of a container's own limit among them): when a worker dies of SIGKILL and the count has risen since its
last sign of life, it was the victim. Elsewhere, and in sandboxes without the count, nobody can tell.
"""

import re
from pathlib import Path

VMSTAT = Path("/proc/vmstat")
_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def kernel_oom_kills(vmstat: Path = VMSTAT) -> int | None:
    """Returns how many processes the kernel has killed for memory since the machine started; None where it does not say."""
    try:
        found = _COUNT.search(vmstat.read_text())
    except OSError:
        return None
    return int(found[1]) if found else None
