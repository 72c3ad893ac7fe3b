"""A publisher that dies at any point leaves nothing half visible, and the next one completes the work."""

from pathlib import Path

import pytest

from adapter_store import AdapterStore, BaseInfo, Provenance, open_store, read_base
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import NotFound
from tests.store_samples import make_adapter, make_base

MADE = Provenance(made_by="tests")


class Died(BaseException):
    """As a killed process: no `except Exception` may go on."""


class DiesAt(FilesystemBackend):
    """Dies when asked for its k-th write, before or after doing it."""

    def __init__(self, root: Path, at: int, *, after: bool) -> None:
        super().__init__(root)
        self._left, self._after = at, after

    def create(self, key: str, data: bytes) -> bool:
        with_death = self._dies()
        if with_death and not self._after:
            raise Died
        created = super().create(key, data)
        if with_death:
            raise Died
        return created

    def put_file(self, key: str, file: Path) -> None:
        with_death = self._dies()
        if with_death and not self._after:
            raise Died
        super().put_file(key, file)
        if with_death:
            raise Died

    def _dies(self) -> bool:
        self._left -= 1
        return self._left == 0


@pytest.fixture
def base(tmp_path: Path) -> BaseInfo:
    return read_base(make_base(tmp_path / "base"))


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    store = open_store(f"file://{tmp_path}/store")
    store.tenants.create("acme")
    return store


def check_all_or_nothing(store: AdapterStore, folder: Path, base: BaseInfo, out: Path) -> int:
    """Whatever is visible is whole; publishing again ends in one whole version. Returns how many were visible."""
    visible = store.versions.list("acme", "greeter").items
    for manifest in visible:
        store.versions.fetch(manifest, out / "visible")
    if not visible:
        assert store.adapters.list("acme").items == []
        with pytest.raises(NotFound):
            store.adapters.get("acme", "greeter")
    again = store.versions.publish("acme", "greeter", folder, base=base, made=MADE)
    store.versions.fetch(again, out / "again")
    assert store.versions.list("acme", "greeter").items == [again]
    return len(visible)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4])  # three blobs and the manifest
def test_death_at_each_write(store: AdapterStore, base: BaseInfo, tmp_path: Path, at: int, after: bool) -> None:
    folder = make_adapter(tmp_path / "adapter")
    dying = AdapterStore(DiesAt(tmp_path / "store", at, after=after))
    with pytest.raises(Died):
        dying.versions.publish("acme", "greeter", folder, base=base, made=MADE)
    assert check_all_or_nothing(store, folder, base, tmp_path) == int(at == 4 and after)
