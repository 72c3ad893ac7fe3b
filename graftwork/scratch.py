"""Temporary files that do not stay behind, whatever way a process ends.

SIGKILL leaves no time to clean up: vLLM's sockets and rendezvous files, half an upload or half a copy would gather in the
system's temporary folder. A service has a folder of its own for all that it and its children make, and empties it at its next
start; a command removes what earlier ones of its kind have left. Does not own what is in them.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError

FOLDER = "graft-tmp"
"""In a service's folder; everything in it is deleted."""
_LOCK = "lock"
_LONGEST_NAME = "n" * 40
"""As long as the longest of a socket in the folder: vLLM's are UUIDs of 36 characters. The system takes paths of 107 bytes."""


class TemporaryFolderTaken(GraftError):
    """The folder that a service would use for its temporary files is another user's."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


@contextmanager
def own_temporary_files(held: Path) -> Iterator[Path]:
    """Gives this process and its children a folder of their own for temporary files: empty at first, gone at the end.

    It is `graft-tmp` in `held`; where no socket can lie there (the path is too long for one, or the file system has none), a folder
    in the system's temporary one whose name goes by `held`'s, so that the next start finds it again.

    Args:
        held: what this process holds (`process.hold_folder`): whoever has it may empty the other one too.

    Raises:
        TemporaryFolderTaken: another user has made a folder of that name.
        OSError: it cannot be made or emptied.
    """
    folder = _place(held)
    before, changed = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = changed
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)  # what cannot be removed now is at the next start, or stops that


def _place(held: Path) -> Path:
    own = held.resolve() / FOLDER
    name = f"graft-of-{hashlib.sha256(os.fsencode(own)).hexdigest()[:12]}"
    system = [Path(tempfile.gettempdir()) / name, Path("/tmp") / name]
    for folder in system:  # of an earlier start that could not use the first
        if folder.exists() and folder.lstat().st_uid == os.geteuid():
            _emptied(folder)
            folder.rmdir()
    for folder in (own, *system):
        if _takes_sockets(_emptied(folder)):
            return folder
        folder.rmdir()
    return _emptied(own)  # whoever needs a socket will say so


def _emptied(folder: Path) -> Path:
    """Makes a folder that is this user's alone, with nothing in it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise TemporaryFolderTaken(f"{folder} is another user's: remove it, or set TMPDIR to another folder")
    folder.chmod(0o700)
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
    return folder


def _takes_sockets(folder: Path) -> bool:
    path = folder / _LONGEST_NAME
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.bind(str(path))
        except OSError:
            return False
    path.unlink()
    return True


class DisposableFolder:
    """A command's temporary folder: gone when it is closed, or, after a SIGKILL, when the next one of its prefix is made.

    Args:
        prefix: of its name, and of those that may be removed: they have a lock in them that nobody holds.
    """

    def __init__(self, prefix: str) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _remove_if_left(left)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        fresh = self.path / f"{_LOCK}.new"
        self._lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        fresh.rename(self.path / _LOCK)  # under this name it was held from the first moment

    def close(self) -> None:
        """Removes it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_if_left(folder: Path) -> None:
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # gone meanwhile, or not one of ours
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # at work
    finally:
        os.close(lock)
