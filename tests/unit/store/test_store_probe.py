"""A store that overwrites is refused at start, however it does it."""

import threading
from pathlib import Path

import pytest

from adapter_store import open_store
from adapter_store.backends import open as opening
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.backends.probe import probe
from adapter_store.errors import StoreMisconfigured, UnsafeBackend


class Overwrites(FilesystemBackend):
    """Ignores the condition, and says so or not."""

    answer = True

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = path.exists()
        path.write_bytes(data)
        return self.answer or not taken


class OverwritesAndDenies(Overwrites):
    answer = False


class ChecksThenWrites(FilesystemBackend):
    """Honours the condition unless two ask at the same time; both look before either writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._looking, self._together = threading.Semaphore(1), threading.Event()

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return False
        if threading.current_thread() is not threading.main_thread():
            if not self._looking.acquire(blocking=False):  # the second one lets both go on
                self._together.set()
            assert self._together.wait(10)
        path.write_bytes(data)
        return True


@pytest.mark.parametrize("kind", [Overwrites, OverwritesAndDenies, ChecksThenWrites])
def test_a_backend_that_overwrites_is_refused(kind: type[FilesystemBackend], tmp_path: Path) -> None:
    with pytest.raises(UnsafeBackend):
        probe(kind(tmp_path))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()], "the probe leaves nothing"


def test_opening_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FilesystemBackend", Overwrites)
    with pytest.raises(UnsafeBackend):
        open_store(f"file://{tmp_path}")


@pytest.mark.parametrize(
    "url",
    ["", "/plain/path", "file:relative", "file://host/path", "http://x", "s3://", "s3://b?unknown=1",
     "s3://b?endpoint=ftp://x", "s3://b?endpoint=http://user:pw@x", "s3://key:secret@bucket/p"],
)  # fmt: skip
def test_urls_that_are_none_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(StoreMisconfigured) as refused:
        open_store(url)
    assert "secret" not in str(refused.value).replace("AWS_SECRET_ACCESS_KEY", "").lower()
