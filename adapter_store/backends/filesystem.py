"""Objects as files below one folder: the embedded default.

Owns durability and create-if-absent on a POSIX file system with hard links. Writers may be several processes on one
machine. Not for network file systems whose link(2) is not atomic; the probe refuses those that show it.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from adapter_store.backends.protocol import Entry, ObjectMissing
from adapter_store.errors import StoreMisconfigured, StoreUnavailable

_PIECE = 1 << 20
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]+", re.ASCII)
_TEMPORARY = ".tmp"  # never a key's first segment: keys start with the layout version
_TRIES = 100  # of a write whose folder a deletion took away under it; each try lost means that a deletion got on


class FilesystemBackend:
    """Keeps each object in the file `root/key`; implements `Backend`.

    Args:
        root: the store's folder, made if missing.

    Raises:
        StoreMisconfigured: the folder cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._temporary = self._root / _TEMPORARY
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreMisconfigured(
                f"cannot use the store's folder {root}: {error.strerror}; check its owner"
            ) from error

    @property
    def parallel_reads(self) -> int:
        return 1  # one disk; more readers only make it seek

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        temporary = self._temporary / secrets.token_hex(16)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave the name with no bytes behind it
            try:
                # the one call that fails when the name is taken; rename would overwrite
                self._place(target, lambda: os.link(temporary, target))
                created = True
            except FileExistsError:
                created = False
                # the loser reports the winner's object as stored, so that one must be durable too
                with suppress(FileNotFoundError):  # removed meanwhile, with its folder
                    _sync_folder(target.parent)
        except OSError as error:
            raise _unavailable("create", key, error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return created

    def put_file(self, key: str, file: Path) -> None:
        target = self._path(key)
        temporary = self._temporary / secrets.token_hex(16)
        try:
            shutil.copyfile(file, temporary)  # in the kernel where it can
            with temporary.open("rb") as copy:
                os.fsync(copy.fileno())
            self._place(target, lambda: temporary.replace(target))
        except OSError as error:
            raise _unavailable("store", key, error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def entry(self, key: str) -> Entry | None:
        try:
            return _entry(key, self._path(key).stat())
        except (FileNotFoundError, NotADirectoryError):
            self._require_root(key)
            return None
        except OSError as error:
            raise _unavailable("look at", key, error) from error

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        buffer = memoryview(bytearray(_PIECE if length is None else min(_PIECE, length)))
        for piece in self.read_into(key, lambda: buffer, offset=offset, length=length):
            yield bytes(piece)

    def read_into(
        self, key: str, take: Callable[[], memoryview], *, offset: int = 0, length: int | None = None
    ) -> Generator[memoryview]:
        try:
            with self._path(key).open("rb", buffering=0) as file:
                file.seek(offset)
                left = length
                while left != 0:
                    buffer = take()
                    count = file.readinto(buffer if left is None else buffer[:left])
                    if not count:
                        return
                    yield buffer[:count]
                    left = None if left is None else left - count
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._require_root(key)
            raise ObjectMissing(key) from None
        except OSError as error:
            raise _unavailable("read", key, error) from error

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        folder = self._path(prefix.removesuffix("/"))
        found: list[str] = []
        for name in self._names(folder, prefix):
            if len(found) >= limit:
                break
            if name > after and (not name.endswith("/") or _holds_a_file(folder / name)):
                found.append(name)
        return found

    def walk(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        self._path(prefix.removesuffix("/"))
        return self._walk(prefix, after)

    def _walk(self, prefix: str, after: str) -> Iterator[Entry]:
        """Below a folder that was listed: its name may be a foreign one, which `_path` would refuse."""
        root = os.fspath(self._root)  # paths as text: a walk may meet millions
        for name in self._names(Path(root, prefix), prefix):
            key = prefix + name
            if name.endswith("/"):
                if key > after or after.startswith(key):
                    yield from self._walk(key, after)
            elif key > after:
                with suppress(FileNotFoundError):  # removed since it was listed
                    yield _entry(key, os.lstat(f"{root}/{key}"))

    def delete(self, key: str) -> None:
        target = self._path(key)
        try:
            target.unlink(missing_ok=True)
            _prune(target.parent, self._root)
        except OSError as error:
            raise _unavailable("delete", key, error) from error

    def unfinished(self) -> Iterator[Entry]:
        for name in self._names(self._temporary, _TEMPORARY):
            with suppress(FileNotFoundError):  # it has ended
                yield _entry(name, (self._temporary / name).lstat())

    def discard(self, write: Entry) -> None:
        try:
            (self._temporary / Path(write.key).name).unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable("discard", write.key, error) from error

    def _path(self, key: str) -> Path:
        # A second lock on the door: names.py already keeps such text out of keys.
        if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")) or key.startswith(_TEMPORARY):
            raise ValueError(f"not an object key: {key!r}")
        return self._root / key

    def _names(self, folder: Path, prefix: str) -> list[str]:
        """What a folder holds, none when it is not there; folders end with a slash, so that the order is that of the keys,
        as an S3 listing has it: 'a-b/' before 'a/'."""
        try:
            with os.scandir(folder) as entries:
                return sorted(
                    f"{found.name}/" if found.is_dir(follow_symlinks=False) else found.name for found in entries
                )
        except (FileNotFoundError, NotADirectoryError):
            self._require_root(prefix)
            return []
        except OSError as error:
            raise _unavailable("list", prefix, error) from error

    def _require_root(self, key: str) -> None:
        """Tells a store that is not there (a disk that is not mounted) from one that lacks an object: else every key would be
        refused as unknown, and every adapter as never published."""
        try:
            self._temporary.stat()
        except OSError as error:
            raise StoreUnavailable(
                f"cannot look for {key}: the store's folder {self._root} is not there ({error.strerror}); mount it again"
            ) from error

    def _place(self, target: Path, put: Callable[[], object]) -> None:
        """Gives a written file its name, durably, in a folder that a deletion may take away as empty at any moment."""
        for turn in range(_TRIES):
            try:
                self._make_folder(target.parent)
                put()
                break
            except FileNotFoundError:
                if turn + 1 == _TRIES:
                    raise
        with suppress(FileNotFoundError):  # removed meanwhile, with its folder
            _sync_folder(target.parent)

    def _make_folder(self, folder: Path) -> None:
        """Makes a folder and its parents durable: a synced file in a folder that is lost is lost too."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        # not mkdir(exist_ok=True): that looks again at what existed, and fails when a deletion was faster than the look
        with suppress(FileExistsError):
            folder.mkdir()
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(key: str, found: os.stat_result) -> Entry:
    return Entry(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _prune(folder: Path, root: Path) -> None:
    """Removes folders that have become empty, so that what is gone leaves nothing behind that listings look into."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:  # not empty, or somebody else was faster
            return
        folder = folder.parent


def _holds_a_file(folder: Path) -> bool:
    """A crash between mkdir and link leaves an empty folder; it must not look like a tenant or an adapter."""
    return any(files for _, _, files in os.walk(folder))


def _unavailable(verb: str, key: str, error: OSError) -> StoreUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(
            f"cannot {verb} {key}: the file store's disk is full; free space there (`graft store gc` removes what nobody needs), "
            "then do it again"
        )
    return StoreUnavailable(
        f"cannot {verb} {key} in the file store: {error.strerror or error}; check disk and permissions"
    )
