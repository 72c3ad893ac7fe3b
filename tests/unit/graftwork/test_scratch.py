"""A service's temporary files are its own and gone at its next start, also after SIGKILL; commands clean up behind each other."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graftwork.scratch import DisposableFolder, TemporaryFolderTaken, own_temporary_files

SERVICE = """
import os, socket, sys, tempfile
from pathlib import Path
from graftwork.process import hold_folder
from graftwork.scratch import own_temporary_files
held = Path(sys.argv[1])
with hold_folder(held, "X"), own_temporary_files(held) as folder:
    os.chdir(folder)
    socket.socket(socket.AF_UNIX).bind("a" * 36)
    made = tempfile.mkdtemp()
    Path(made, "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""
COPY = """
import sys
from graftwork.scratch import DisposableFolder
folder = DisposableFolder("graft-test-")
(folder.path / "half").touch()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def system(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, with nothing in it."""
    folder = tmp_path_factory.mktemp("system")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder in whose path a socket has room."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def running(program: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process and the folder that it names; it ends by itself when its input does."""
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def test_what_a_killed_service_left_is_gone_at_its_next_start(short: Path, system: Path) -> None:
    with running(SERVICE, str(short / "one")) as (killed, folder), running(SERVICE, str(short / "two")) as (_, others):
        assert (folder.parent, others.parent) == (short / "one", short / "two")
        assert folder.stat().st_mode & 0o077 == 0
        kill(killed)
        assert len(list(folder.iterdir())) == 2
        with own_temporary_files(short / "one") as again:
            assert again == folder
            assert list(again.iterdir()) == []
            assert Path(tempfile.mkdtemp()).parent == Path(os.environ["TMPDIR"]) == again
        assert len(list(others.iterdir())) == 2, "another service's are left alone"
    assert not folder.exists()
    assert not others.exists(), "a clean end leaves nothing"
    assert list(system.iterdir()) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(system)


def test_where_no_socket_has_room_the_folder_lies_elsewhere_and_is_found_again(short: Path, system: Path) -> None:
    held = short / ("deep" * 30)
    with running(SERVICE, str(held)) as (killed, folder):
        assert held not in folder.parents
        kill(killed)
    assert len(list(folder.iterdir())) == 2
    with own_temporary_files(held) as again:
        assert again == folder
        assert list(again.iterdir()) == []
    assert not folder.exists()
    assert [path.name for path in held.iterdir()] == ["lock"]


def test_what_lies_elsewhere_goes_too_once_the_folder_itself_has_room(
    short: Path, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr("graftwork.scratch._takes_sockets", lambda folder: short not in folder.parents)
        with own_temporary_files(short) as folder:
            assert folder.parent == system
    folder.mkdir()
    (folder / "left").touch()
    with own_temporary_files(short) as inside:
        assert inside == short / "graft-tmp"
        assert not folder.exists()


def test_where_no_socket_can_lie_at_all_the_files_are_in_the_services_folder(
    short: Path, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.scratch._takes_sockets", lambda folder: False)
    with own_temporary_files(short) as folder:
        assert folder == short / "graft-tmp"
    assert list(system.iterdir()) == []


def test_another_users_folder_is_not_emptied(short: Path) -> None:
    elsewhere = short / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "dear").touch()
    (short / "graft-tmp").symlink_to(elsewhere)
    with pytest.raises(TemporaryFolderTaken, match="another user's"), own_temporary_files(short):
        pass
    assert (elsewhere / "dear").exists()


def test_a_commands_folder_is_removed_by_the_next_one_unless_it_is_at_work(system: Path) -> None:
    with running(COPY) as (killed, left), running(COPY) as (_, working):
        kill(killed)
        strangers = system / "graft-test-stranger"
        strangers.mkdir()
        folder = DisposableFolder("graft-test-")
        assert not left.exists()
        assert (working / "half").exists()
        assert strangers.exists(), "there is no lock in it, so it may be one that is just being made"
        (folder.path / "more").mkdir()
        folder.close()
        assert not folder.path.exists()
