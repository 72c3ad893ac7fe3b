"""The tools of a chaos run do to processes, networks and disks what they say."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.clock import JumpingClock
from tests.chaos.disk import SmallDisk
from tests.conftest import without

_CHILD = """
import sys, threading, time
for _ in sys.stdin:
    before = time.monotonic()
    threading.Event().wait(0.05)
    print(time.time(), time.monotonic() - before, flush=True)
"""


def test_a_jump_reaches_a_running_process_and_leaves_its_waits_alone(tmp_path: Path) -> None:
    if not JumpingClock.is_possible():
        without("no compiler for the clock's shim: cc is not installed")
    clock = JumpingClock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        env=os.environ | clock.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin and child.stdout  # noqa: PT018  for the type checker

        def ask() -> tuple[float, float]:
            child.stdin.write("\n")
            child.stdin.flush()
            now, waited = child.stdout.readline().split()
            return float(now), float(waited)

        (start, _) = ask()
        for jump in (86_400.0, -86_400.0, 0.0):
            clock.set(jump)
            now, waited = ask()
            assert abs(now - start - jump) < 3_600  # minutes of a busy machine are not days
            assert waited < 3_600
        child.stdin.close()


def test_a_full_disk_takes_nothing_until_it_is_emptied(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk") as disk:
        if not disk.can_be_filled:
            without("mounting a tmpfs is not allowed here")
        disk.fill()
        with pytest.raises(OSError, match="No space") as refused:
            (disk.folder / "more").write_bytes(bytes(1 << 16))
        assert refused.value.errno == errno.ENOSPC
        disk.empty()
        (disk.folder / "more").write_bytes(bytes(1 << 16))
