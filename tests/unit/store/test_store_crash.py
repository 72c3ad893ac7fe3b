"""A publisher that dies at any point leaves nothing half visible, and the next one completes the work."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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


_KILLED = """
import os, signal, sys
from pathlib import Path
from adapter_store import Provenance, open_store, read_base
store, base, at = open_store(sys.argv[1]), read_base(sys.argv[2]), int(sys.argv[4])
seen = 0
def hook(event, arguments):
    # audit events: every open, link, rename and mkdir that publishing does, library code included
    global seen
    if event in ("open", "os.link", "os.rename", "os.mkdir") and sys.argv[1][7:] in str(arguments[0]):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
store.versions.publish("acme", "greeter", Path(sys.argv[3]), base=base, made=Provenance(made_by="killed"))
print(seen)
"""


def publish_in_process(tmp_path: Path, at: int) -> "subprocess.CompletedProcess[str]":
    arguments = [f"file://{tmp_path}/store", tmp_path / "base", tmp_path / "adapter", at]
    command = [sys.executable, "-c", _KILLED, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": "."}
    )


@pytest.fixture
def steps(tmp_path: Path, store: AdapterStore, base: BaseInfo) -> Iterator[range]:
    """Every point at which a whole publication touches the store's folder."""
    make_adapter(tmp_path / "adapter")
    done = publish_in_process(tmp_path, 0)
    assert done.returncode == 0, done.stderr
    return range(1, int(done.stdout) + 1)


@pytest.mark.slow
def test_sigkill_at_each_touch_of_the_disk(steps: range, base: BaseInfo, tmp_path: Path) -> None:
    assert len(steps) > 10
    seen = set()
    for at in steps:
        place = tmp_path / f"kill-{at}"
        place.mkdir()
        (place / "base").symlink_to(tmp_path / "base")
        (place / "adapter").symlink_to(tmp_path / "adapter")
        store = open_store(f"file://{place}/store")
        store.tenants.create("acme")
        done = publish_in_process(place, at)
        assert done.returncode == -signal.SIGKILL, done.stderr
        seen.add(check_all_or_nothing(store, tmp_path / "adapter", base, place))
    assert seen == {0, 1}, "some kills came before the manifest and some after"
