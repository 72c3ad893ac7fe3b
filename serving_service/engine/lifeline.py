"""Ties the engine's processes to ours: when this process dies, even by SIGKILL, the kernel kills them.

vLLM's EngineCore does not notice that its parent is gone (seen in 0.32: no parent-death signal, no pipe; workers of the
multiprocess executor watch EngineCore only), and would hold memory and CPU for ever. Owns that tie, and who was spawned
under it. Several engines may start at once, each in a thread of its own.
"""

import multiprocessing
import multiprocessing.spawn
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import popen_spawn_posix
from typing import Any

# Runs in the child before its first import, so that there is no moment without the tie. 1 is PR_SET_PDEATHSIG, 9 SIGKILL.
# The check after it covers a parent that died before the call.
_PRELUDE = "import ctypes, os; ctypes.CDLL(None).prctl(1, 9); os.getppid() == {pid} or os._exit(1); "


class Spawned:
    """The processes that one engine has spawned."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self.ids: set[int] = set()

    def add(self, process: int) -> None:
        """Notes one; it is ended at once when `end` was there first."""
        with self._lock:
            self.ids.add(process)
            if self._ended:
                os.kill(process, signal.SIGKILL)

    def end(self) -> None:
        """Ends those that run, and those that are still to come."""
        with self._lock:
            self._ended = True
            for child in multiprocessing.active_children():
                if child.pid in self.ids:
                    child.kill()


_lock = threading.Lock()
_spawning: dict[int, Spawned] = {}  # by the thread inside the block
_originals: tuple[Any, Any] | None = None
_Popen: Any = popen_spawn_posix.Popen


def tied_program(module: str) -> list[str]:
    """Returns the command of a child that runs `main` of a module and dies with us; see `children_die_with_us`."""
    prelude = _PRELUDE.format(pid=os.getpid()) if sys.platform == "linux" else ""
    return [sys.executable, "-c", f"{prelude}from {module} import main; main()"]


@contextmanager
def children_die_with_us(spawned: Spawned | None = None) -> Iterator[None]:
    """Makes every process that `multiprocessing` spawns inside the block die with this one (Linux; elsewhere a no-op).

    The signal is sent when the *thread* that spawned the child ends: spawn from one that lives as long as the child.

    Args:
        spawned: gets the processes that this thread spawns, as soon as they have started.
    """
    me = threading.get_ident()
    with _lock:
        if not _spawning:  # multiprocessing is one for all threads: patched while any of them is inside
            _patch()
        _spawning[me] = spawned or Spawned()
    try:
        yield
    finally:
        with _lock:
            del _spawning[me]
            if not _spawning:
                _unpatch()


def _patch() -> None:
    global _originals
    command_line, launch = _originals = (multiprocessing.spawn.get_command_line, _Popen._launch)

    def tied(**kwargs: Any) -> list[str]:
        command = list(command_line(**kwargs))
        if sys.platform == "linux":
            program = command.index("-c") + 1
            command[program] = _PRELUDE.format(pid=os.getpid()) + command[program]
        return command

    def noted(self: Any, process: Any) -> None:
        launch(self, process)
        if (spawned := _spawning.get(threading.get_ident())) is not None:
            spawned.add(self.pid)

    multiprocessing.spawn.get_command_line = tied
    _Popen._launch = noted


def _unpatch() -> None:
    global _originals
    assert _originals is not None
    multiprocessing.spawn.get_command_line, _Popen._launch = _originals
    _originals = None
