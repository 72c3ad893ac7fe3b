"""Empty files whose pages are in memory already, for what is fetched next.

A new file's bytes go into fresh pages of the kernel's cache, and in a virtual machine the first touch of a page can cost more than
bringing its bytes from the store: 40 MB took 181 ms to write, 12 ms where the pages were there (docs/benchmarks.md). So a few
files of holes are kept and read once, which makes their pages, of zeros; they take nothing on the disk until somebody writes. Not
while files are wanted one after the other, as long as there is one: what fetches them would share cores and memory with it.

Owns these files and the thread that makes them. Does not own what becomes of one that was taken.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from graftwork.quiet_threads import Lull, step_back

NewFile = Callable[[Path, int], BinaryIO]
"""Makes a file of a size for reading and writing, unbuffered; what it holds is the caller's to write, all of it. FileExistsError when it
is there already."""

LEAST_BYTES = 4 << 20
"""A smaller file is written as fast without."""
MOST_BYTES = 1 << 30
"""Of all that are kept."""
COUNT = 10
_PIECE = 1 << 20
_REST_S = 0.016  # between pieces: 50 MB a second, a fifth of a core
_NICE = 10
QUIET_S = 2.0
"""Without a new file, after which what was taken is made up for."""

log = structlog.get_logger(__name__)


def new_file(path: Path, size: int) -> BinaryIO:
    """A `NewFile` with nothing prepared."""
    return path.open("x+b", buffering=0)


class SpareFiles:
    """Makes new files of those that it keeps, of the size that was last wanted.

    Args:
        folder: on the file system of the files; of this object alone, whatever lies there is deleted.
        quiet_s: as `QUIET_S`.
    """

    def __init__(self, folder: Path, quiet_s: float = QUIET_S) -> None:
        self._folder, self._lull = folder, Lull(_REST_S, quiet_s)
        self._spares = list[Path]()
        self._size = 0
        self._wanted, self._ended = threading.Event(), threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.full = threading.Event()
        """Set while all are there."""
        shutil.rmtree(folder, ignore_errors=True)

    def new_file(self, path: Path, size: int) -> BinaryIO:
        """A `NewFile`: one of those kept, where one is large enough and not far too large."""
        if size < LEAST_BYTES:
            return new_file(path, size)
        found = self._found(path, size)
        self._size = size
        self.full.clear()
        self._lull.used()
        self._wanted.set()
        with self._starting:  # several files may be the first at once
            if self._thread is None:
                self._thread = threading.Thread(target=self._make, name="spare-files", daemon=True)
                self._thread.start()
        return found or new_file(path, size)

    def close(self) -> None:
        """Deletes what is kept."""
        self._ended.set()
        self._lull.close()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _found(self, path: Path, size: int) -> BinaryIO | None:
        if not size <= self._size <= 4 * size:
            return None
        try:
            spare = self._spares.pop()
        except IndexError:
            return None
        if not _holds(spare, size):
            spare.unlink(missing_ok=True)
            return None
        try:
            os.link(spare, path)  # not a rename, which would replace a file that is there
        except FileExistsError:
            raise
        except OSError:  # gone, or a file system without links
            return None
        finally:
            spare.unlink(missing_ok=True)
        try:
            file = path.open("r+b", buffering=0)
            os.ftruncate(file.fileno(), size)
        except BaseException:
            path.unlink()  # no file is left where none could be made
            raise
        return file

    def _make(self) -> None:
        step_back(_NICE)
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._ended.is_set():
                return
            try:
                self._fill()
            except OSError as error:  # a full disk, say: files are made without
                log.info("no spare files", cause=repr(error))

    def _fill(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        size = self._size
        if any(spare.stat().st_size != size for spare in self._spares):
            for spare in list(self._spares):
                with suppress(ValueError):  # it has just been taken
                    self._spares.remove(spare)
                    spare.unlink()
        buffer = memoryview(bytearray(_PIECE))
        while len(self._spares) < min(COUNT, MOST_BYTES // size) and not self._ended.is_set():
            spare = self._folder / secrets.token_hex(8)
            try:
                with spare.open("x+b", buffering=0) as file:
                    os.ftruncate(file.fileno(), size)
                    for at in range(0, size, _PIECE):
                        if not self._lull.wait(lambda: not self._spares or self._size != size):
                            return  # `close` deletes the folder
                        if self._size != size:  # others are wanted by now: `_make` comes again
                            spare.unlink()
                            return
                        os.preadv(file.fileno(), [buffer], at)
            except OSError:
                spare.unlink(missing_ok=True)
                raise
            self._spares.append(spare)
        self.full.set()


def _holds(spare: Path, size: int) -> bool:
    """Whether it is as large; it may be of a size that was wanted before."""
    try:
        return spare.stat().st_size >= size
    except FileNotFoundError:
        return False
