"""Telling the kernel's out-of-memory killer from somebody's `kill -9`."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer_service.core.kernel_oom import kernel_oom_kills

MEMORY = Path("/sys/fs/cgroup/memory")


def test_the_count_is_read(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 12\noom_kill 7\nnuma_oom_kill 9\n")
    assert kernel_oom_kills(vmstat) == 7
    vmstat.write_text("pgfault 12\n")
    assert kernel_oom_kills(vmstat) is None
    assert kernel_oom_kills(tmp_path / "missing") is None


@pytest.fixture
def small_group() -> Path:
    """A control group of 64 MiB, where this process may make one."""
    own = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), "")
    group = MEMORY / own.rpartition(":")[2].lstrip("/") / f"graft-test-{id(object())}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error.strerror}")
    yield group
    group.rmdir()


def test_a_real_victim_is_counted_and_a_kill_is_not(small_group: Path) -> None:
    before = kernel_oom_kills()
    assert before is not None
    hungry = f"open('{small_group}/cgroup.procs', 'w').write('0'); b = [bytearray(1 << 20) for _ in range(1000)]"
    assert subprocess.run([sys.executable, "-c", hungry], check=False).returncode == -9
    assert kernel_oom_kills() == before + 1
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    assert kernel_oom_kills() == before + 1
