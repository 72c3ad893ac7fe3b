"""Ties the engine's processes to ours: when this process dies, even by SIGKILL, the kernel kills them.

vLLM's EngineCore does not notice that its parent is gone (seen in 0.32: no parent-death signal, no pipe; workers of the
multiprocess executor watch EngineCore only), and would hold memory and CPU for ever. Owns that tie and nothing else.
"""

import multiprocessing.spawn
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Runs in the child before its first import, so that there is no moment without the tie. 1 is PR_SET_PDEATHSIG, 9 SIGKILL.
# The check after it covers a parent that died before the call.
_PRELUDE = "import ctypes, os; ctypes.CDLL(None).prctl(1, 9); os.getppid() == {pid} or os._exit(1); "


@contextmanager
def children_die_with_us() -> Iterator[None]:
    """Makes every process that `multiprocessing` spawns inside the block die with this one (Linux; elsewhere a no-op).

    The signal is sent when the *thread* that spawned the child ends: spawn from one that lives as long as the child.
    """
    if sys.platform != "linux":
        yield
        return
    original = multiprocessing.spawn.get_command_line

    def tied(**kwargs: Any) -> list[str]:
        command = original(**kwargs)
        program = command.index("-c") + 1
        command[program] = _PRELUDE.format(pid=os.getpid()) + command[program]
        return command

    multiprocessing.spawn.get_command_line = tied
    try:
        yield
    finally:
        multiprocessing.spawn.get_command_line = original
