"""The filesystem backend under the contract."""

from pathlib import Path

import pytest

from adapter_store.backends.filesystem import FilesystemBackend
from tests.contract.backend_contract import BackendContract
from tests.contract.removal_contract import RemovalContract
from tests.contract.store_contract import StoreContract


class _RawFiles:
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
    def raw(self, root: Path) -> _RawFiles:
        return _RawFiles(root)


class TestFilesystemBackend(_Place, BackendContract):
    @pytest.fixture
    def backend(self, root: Path) -> FilesystemBackend:
        return FilesystemBackend(root)

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
