"""The session goes first only while it is told to, what it was before comes back, and where that is not allowed nothing happens."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serving_service.vllm_plugin import session_priority
from serving_service.vllm_plugin.session_priority import FIRST, SessionPriority

REAL = Path("/proc/self/autogroup")
IN_A_SESSION = """
import threading
from pathlib import Path
from serving_service.vllm_plugin.session_priority import SessionPriority
priority, file = SessionPriority(), Path("/proc/self/autogroup")
usual = file.read_text().split()[-1]
print(usual, priority.raised(True), file.read_text().split()[-1])
priority.raised(False)
while timers := [one for one in threading.enumerate() if isinstance(one, threading.Timer)]:
    timers[0].join(20)  # who may not do all may change it every 0.1 s
print(file.read_text().split()[-1])
"""


def test_what_it_was_comes_back_however_often_it_was_raised(tmp_path: Path) -> None:
    file = tmp_path / "autogroup"
    file.write_text("/autogroup-93 nice 3\n")
    priority = SessionPriority(file)
    assert not priority.raised(False)
    assert file.read_text() == "/autogroup-93 nice 3\n", "nothing to put back"
    assert priority.raised(True)
    assert priority.raised(True)
    assert file.read_text() == f"{FIRST}\n"
    assert not priority.raised(False)
    assert file.read_text() == "3\n"


@pytest.mark.parametrize("text", [None, "", "/autogroup-93 nice -15\n"])
def test_without_such_sessions_or_where_it_is_first_nothing_is_written(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "autogroup"
    if text is not None:
        file.write_text(text)
    priority = SessionPriority(file)
    assert not priority.raised(True)
    assert not priority.raised(False)
    assert (file.read_text() if file.exists() else None) == text


def test_where_it_may_not_be_raised_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "autogroup"
    file.write_text("/autogroup-93 nice 0\n")

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert not SessionPriority(file).raised(True)


@pytest.mark.skipif(not REAL.exists(), reason="this kernel has no groups of sessions")
def test_the_kernel_takes_it_from_who_may_raise_it() -> None:
    made = subprocess.run(
        [sys.executable, "-c", IN_A_SESSION], capture_output=True, text=True, start_new_session=True, check=True
    )
    (usual, raised, now), (after,) = (line.split() for line in made.stdout.splitlines())
    assert raised == "True" or not _may_raise()
    assert int(now) == (FIRST if raised == "True" else int(usual))
    assert after == usual


def test_what_may_not_be_changed_again_so_soon_is_put_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write, refused = tmp_path / "autogroup", Path.write_text, threading.Event()
    file.write_text("/autogroup-93 nice 3\n")

    def sometimes(self: Path, text: str) -> int:
        if text == "3\n" and not refused.is_set():
            refused.set()
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return write(self, text)

    monkeypatch.setattr(session_priority, "AGAIN_S", 0.001)
    monkeypatch.setattr(Path, "write_text", sometimes)
    priority = SessionPriority(file)
    assert priority.raised(True)
    assert priority.raised(False), "not yet"
    for timer in [one for one in threading.enumerate() if isinstance(one, threading.Timer)]:
        timer.join(20)
    assert file.read_text() == "3\n"
    assert not priority.raised(False)


def test_what_an_engine_that_died_left_behind_is_put_back(tmp_path: Path) -> None:
    file = tmp_path / "autogroup"
    file.write_text(f"/autogroup-93 nice {FIRST}\n")
    priority = SessionPriority(file)
    assert priority.raised(True)
    assert not priority.raised(False)
    assert file.read_text() == "0\n"


def _may_raise() -> bool:
    """CAP_SYS_NICE, the 23rd."""
    rights = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(rights.split()[1], 16) >> 23 & 1)
