"""Objects as files below one folder: the embedded default.

Owns durability and create-if-absent on a POSIX file system with hard links. Writers may be several processes on one
machine. Not for network file systems whose link(2) is not atomic; the probe refuses those that show it.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from adapter_store.backends.protocol import ObjectMissing
from adapter_store.errors import StoreMisconfigured, StoreUnavailable

_PIECE = 1 << 20
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]+", re.ASCII)
_TEMPORARY = ".tmp"  # never a key's first segment: keys start with the layout version


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

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        temporary = self._temporary / secrets.token_hex(16)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave the name with no bytes behind it
            self._make_folder(target.parent)
            try:
                os.link(temporary, target)  # the one call that fails when the name is taken; rename would overwrite
                created = True
            except FileExistsError:
                created = False
            # also for the loser: it reports the winner's object as stored, so that one must be durable too
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
            with file.open("rb") as source, temporary.open("xb") as copy:
                shutil.copyfileobj(source, copy, _PIECE)
                copy.flush()
                os.fsync(copy.fileno())
            self._make_folder(target.parent)
            temporary.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise _unavailable("store", key, error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unavailable("look at", key, error) from error

    def read(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        try:
            with self._path(key).open("rb") as file:
                file.seek(offset)
                left = length
                while piece := file.read(_PIECE if left is None else min(_PIECE, left)):
                    yield piece
                    left = None if left is None else left - len(piece)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(key) from None
        except OSError as error:
            raise _unavailable("read", key, error) from error

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        folder = self._path(prefix.removesuffix("/"))
        try:
            with os.scandir(folder) as entries:
                # with the slash, so that the order is that of the keys, as an S3 listing has it: 'a-b/' before 'a/'
                names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unavailable("list", prefix, error) from error
        found: list[str] = []
        for name in names:
            if len(found) >= limit:
                break
            if name > after and (not name.endswith("/") or _holds_a_file(folder / name)):
                found.append(name)
        return found

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable("delete", key, error) from error

    def _path(self, key: str) -> Path:
        # A second lock on the door: names.py already keeps such text out of keys.
        if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")) or key.startswith(_TEMPORARY):
            raise ValueError(f"not an object key: {key!r}")
        return self._root / key

    def _make_folder(self, folder: Path) -> None:
        """Makes a folder and its parents durable: a synced file in a folder that is lost is lost too."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holds_a_file(folder: Path) -> bool:
    """A crash between mkdir and link leaves an empty folder; it must not look like a tenant or an adapter."""
    return any(files for _, _, files in os.walk(folder))


def _unavailable(verb: str, key: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"cannot {verb} {key} in the file store: {error.strerror or error}; check disk and permissions"
    )
