"""The filesystem backend under the contract."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.backends.open import open_backend
from adapter_store.errors import StoreUnavailable
from tests.contract.backend_contract import BackendContract
from tests.contract.kill_contract import KillContract
from tests.contract.merged_contract import MergedContract
from tests.contract.removal_contract import RemovalContract
from tests.contract.repeat_contract import RepeatContract
from tests.contract.route_contract import RouteContract
from tests.contract.signature_contract import SignatureContract
from tests.contract.store_contract import StoreContract


class RawFiles:
    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        file = self._root / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def get(self, key: str) -> bytes | None:
        file = self._root / key
        return file.read_bytes() if file.exists() else None

    def keys(self) -> list[str]:
        return sorted(file.relative_to(self._root).as_posix() for file in self._root.rglob("*") if file.is_file())


class _Place:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @pytest.fixture
    def url(self, root: Path) -> str:
        return f"file://{root}"

    @pytest.fixture
    def raw(self, root: Path) -> RawFiles:
        return RawFiles(root)


class TestFilesystemBackend(_Place, BackendContract):
    @pytest.fixture
    def backend(self, root: Path) -> FilesystemBackend:
        return FilesystemBackend(root)

    @pytest.fixture
    def unfinished(self, backend: FilesystemBackend, root: Path) -> Callable[[], None]:
        return lambda: (root / ".tmp" / secrets.token_hex(16)).write_bytes(b"half")

    def test_what_is_deleted_leaves_no_folder(self, backend: FilesystemBackend, root: Path) -> None:
        backend.create("v1/a/b/c/one", b"")
        backend.create("v1/a/two", b"")
        backend.delete("v1/a/b/c/one")
        assert [path.name for path in root.rglob("*") if path.name != ".tmp"] == ["v1", "a", "two"]
        backend.delete("v1/a/two")
        assert root.is_dir()
        assert backend.create("v1/a/b/c/one", b"")

    def test_writers_outlast_deletions_that_take_their_folder(self, backend: FilesystemBackend, tmp_path: Path) -> None:
        """A folder may vanish as empty between its making and the write into it."""
        (tmp_path / "file").write_bytes(b"blob")

        def write(number: int) -> None:
            for _ in range(50):
                assert backend.create(f"v1/a/b/{number}", b"x")
                backend.put_file(f"v1/a/c/{number}", tmp_path / "file")
                backend.delete(f"v1/a/b/{number}")
                backend.delete(f"v1/a/c/{number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert list(backend.walk("v1/")) == []

    @pytest.mark.parametrize("key", ["../x", "v1/../../x", "/etc/passwd", "v1//x", "v1/a\x00b", ".tmp/x", "v1/é", ""])
    def test_no_key_leaves_the_folder(self, backend: FilesystemBackend, key: str) -> None:
        with pytest.raises(ValueError, match="not an object key"):
            backend.create(key, b"")

    def test_an_empty_folder_left_by_a_crash_is_not_listed(self, backend: FilesystemBackend, root: Path) -> None:
        (root / "v1/tenants/ghost/record").mkdir(parents=True)
        assert backend.children("v1/tenants/", limit=10) == []


class TestFilesystemStore(_Place, StoreContract):
    pass


class TestFilesystemRemoval(_Place, RemovalContract):
    pass


class TestFilesystemRepeats(_Place, RepeatContract):
    pass


class TestFilesystemMerged(_Place, MergedContract):
    pass


class TestFilesystemRoutes(_Place, RouteContract):
    pass


class TestFilesystemSignatures(_Place, SignatureContract):
    pass


class TestFilesystemKills(_Place, KillContract):
    pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "graft-test", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount")  # a full disk can be made in no other way; CI runs as root
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_says_so_and_leaves_nothing_half_written(small_disk: Path, tmp_path: Path) -> None:
    backend = open_backend(f"file://{small_disk}/store")
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    assert backend.create("v1/before", b"kept")
    with pytest.raises(StoreUnavailable, match="disk is full; free space there"):
        backend.put_file("v1/large", tmp_path / "large")
    assert backend.entry("v1/large") is None
    assert not list((small_disk / "store/.tmp").iterdir()), "what did not fit is gone again"
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    with pytest.raises(StoreUnavailable, match="disk is full"):
        backend.create("v1/after", bytes(1 << 16))
    assert backend.entry("v1/after") is None
    assert b"".join(backend.read("v1/before")) == b"kept"
    (small_disk / "filler").unlink()
    assert backend.create("v1/after", b"now")
