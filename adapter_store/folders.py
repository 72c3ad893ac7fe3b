"""Folders that come out of the store: made whole or not at all, every file verified.

Owns the folder's coming into place, also when several processes race for it. Does not own how a file's bytes are fetched.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from adapter_store.blobs import hash_file

_AT_ONCE = 4  # files; each may take several connections


class StoredFile(Protocol):
    """What is known of a file."""

    @property
    def path(self) -> str:
        """Its name in the folder."""
        ...

    @property
    def sha256(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...


F = TypeVar("F", bound=StoredFile)


def make_folder(dest: Path, files: Sequence[F], fetch: Callable[[F, Path], None]) -> Path:
    """Makes the folder `dest` with these files. One that is there already is kept when sound, replaced when not.

    Args:
        dest: several processes may race for it.
        files: what it shall hold.
        fetch: writes a file's verified bytes to a new path; called from several threads.

    Raises:
        What `fetch` raises; then there is no folder.
    """
    if dest.exists():
        if _is_sound(files, dest):
            return dest
        # Away under another name first: nobody may find a folder from which files vanish one by one.
        with suppress(FileNotFoundError):  # somebody else has just done so
            shutil.rmtree(dest.rename(_sibling(dest, "damaged")))
    partial = _sibling(dest, "partial")
    partial.mkdir(parents=True)
    try:
        with ThreadPoolExecutor(min(_AT_ONCE, len(files)), thread_name_prefix="store-get") as pool:
            flights = [pool.submit(fetch, file, partial / file.path) for file in files]
        for flight in flights:
            flight.result()
        try:
            partial.rename(dest)
        except OSError:
            if not _is_sound(files, dest):  # else somebody else was faster with the same content
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dest


def _is_sound(files: Sequence[F], folder: Path) -> bool:
    try:
        return all(hash_file(folder / file.path) == (file.sha256, file.size) for file in files)
    except OSError:
        return False


def _sibling(dest: Path, why: str) -> Path:
    """A name beside `dest`, so that a rename stays within one file system."""
    return dest.with_name(f"{dest.name}.{why}-{os.getpid()}-{secrets.token_hex(4)}")
