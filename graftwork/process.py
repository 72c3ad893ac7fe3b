"""What every service process does before it serves: holds its folder. Owns no folder's meaning."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError


class FolderBusy(GraftError):
    """Another process of the same kind works on the folder."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


@contextmanager
def hold_folder(folder: Path, variable: str) -> Iterator[None]:
    """Makes a folder and holds it for this process; the kernel lets go of it whatever way the process ends.

    Args:
        folder: two processes on it would undo each other's work.
        variable: environment variable that names it, for the message.

    Raises:
        FolderBusy: another process holds it.
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise FolderBusy(f"another process works on {folder}: stop it, or set {variable} to another folder") from None
    try:
        yield
    finally:
        os.close(handle)
