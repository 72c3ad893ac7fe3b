"""What every backend promises; inherited, not run by itself. `raw` bypasses the backend, so that a mistake that writing
and reading share cannot hide."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import pytest

from adapter_store.backends.probe import probe
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.clock import store_now
from tests.contract import racers


class Raw(Protocol):
    """The server's own truth."""

    def put(self, key: str, data: bytes) -> None: ...
    def get(self, key: str) -> bytes | None: ...
    def keys(self) -> list[str]: ...


def content(backend: Backend, key: str, **part: int) -> bytes:
    return b"".join(backend.read(key, **part))


def size(backend: Backend, key: str) -> int:
    entry = backend.entry(key)
    assert entry is not None
    return entry.size


class BackendContract:
    """Subclasses give the fixtures `backend`, `raw`, `url` and `unfinished` (begins a write and leaves it), all of the same
    empty place."""

    def test_create_stores_exactly_the_bytes(self, backend: Backend, raw: Raw) -> None:
        assert backend.create("v1/a/b.json", b"\x00bytes\n")
        assert raw.get("v1/a/b.json") == b"\x00bytes\n"
        assert raw.keys() == ["v1/a/b.json"]

    def test_create_never_overwrites(self, backend: Backend, raw: Raw) -> None:
        raw.put("v1/a", b"foreign")
        assert not backend.create("v1/a", b"mine")
        assert raw.get("v1/a") == b"foreign"
        assert not backend.create("v1/a", b"foreign"), "same bytes are not the same writer"

    def test_one_process_wins_each_key(self, url: str, raw: Raw) -> None:
        won = racers.race(racers.create_keys, url, 10)
        assert sorted(turn for turns in won for turn in turns) == list(range(10))
        for number, turns in enumerate(won):
            assert all(raw.get(f"v1/race/{turn}") == str(number).encode() for turn in turns)

    def test_put_file_stores_the_bytes_and_replaces(self, backend: Backend, raw: Raw, tmp_path: Path) -> None:
        file = tmp_path / "file"
        raw.put("v1/blob", b"damaged")
        file.write_bytes(b"sound")
        backend.put_file("v1/blob", file)
        assert raw.get("v1/blob") == b"sound"

    def test_large_file_comes_back_whole(self, backend: Backend, raw: Raw, tmp_path: Path) -> None:
        data = bytes(range(256)) * (40 << 12)  # 40 MiB: several parts of a multipart upload
        (tmp_path / "file").write_bytes(data)
        backend.put_file("v1/large", tmp_path / "file")
        assert raw.get("v1/large") == data
        assert content(backend, "v1/large") == data
        assert size(backend, "v1/large") == len(data)

    def test_empty_objects_are_objects(self, backend: Backend, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        backend.put_file("v1/empty", tmp_path / "file")
        assert size(backend, "v1/empty") == 0
        assert content(backend, "v1/empty") == b""
        assert content(backend, "v1/empty", length=10) == b""

    @pytest.mark.parametrize(
        ("offset", "length", "expected"),
        [(0, None, b"0123456789"), (3, 4, b"3456"), (8, 10, b"89"), (0, 0, b""), (10, 5, b""), (4, None, b"456789")],
    )
    def test_ranges(self, backend: Backend, raw: Raw, offset: int, length: int | None, expected: bytes) -> None:
        raw.put("v1/digits", b"0123456789")
        assert b"".join(backend.read("v1/digits", offset=offset, length=length)) == expected

    def test_missing_objects(self, backend: Backend) -> None:
        assert backend.entry("v1/none") is None
        with pytest.raises(ObjectMissing):
            content(backend, "v1/none")
        assert backend.children("v1/none/", limit=10) == []
        assert list(backend.walk("v1/none/")) == []
        backend.delete("v1/none")

    def test_children_are_one_level_in_key_order(self, backend: Backend, raw: Raw) -> None:
        for key in ("a/x/1", "a/x/2", "a/x-y/1", "a/x0/1", "ab/1"):
            raw.put(f"v1/{key}", b"")
        # '-' sorts before '/', '0' behind it
        assert backend.children("v1/a/", limit=10) == ["x-y/", "x/", "x0/"]
        assert backend.children("v1/a/x/", limit=10) == ["1", "2"]

    def test_children_go_on_behind_an_entry_whatever_was_added(self, backend: Backend, raw: Raw) -> None:
        for name in ("b/1", "b/2", "b-c/1", "d/1"):
            raw.put(f"v1/list/{name}", b"")
        first = backend.children("v1/list/", limit=2)
        raw.put("v1/list/a/1", b"")
        raw.put("v1/list/c/1", b"")
        rest = backend.children("v1/list/", after=first[-1], limit=10)
        assert (first, rest) == (["b-c/", "b/"], ["c/", "d/"])

    def test_more_than_a_server_lists_at_once(self, backend: Backend, raw: Raw) -> None:
        names = [f"{number:05d}" for number in range(1105)]
        for name in names:
            raw.put(f"v1/many/{name}", b"")
        assert backend.children("v1/many/", limit=2000) == names
        assert backend.children("v1/many/", limit=1001) == names[:1001]
        assert backend.children("v1/many/", after="01000", limit=1) == ["01001"]

    def test_a_walk_meets_every_object_once_in_key_order(self, backend: Backend, raw: Raw) -> None:
        for key in ("a/x/1", "a/x-y/1", "a/x0/1/2", "a/x.json", "b/~foreign", "b/+x/1", "ab/1"):
            raw.put(f"v1/{key}", key.encode())
        found = list(backend.walk("v1/a/"))
        assert [entry.key for entry in found] == ["v1/a/x-y/1", "v1/a/x.json", "v1/a/x/1", "v1/a/x0/1/2"]
        assert [entry.size for entry in found] == [7, 8, 5, 8]
        everything = [entry.key for entry in backend.walk("v1/")]
        assert everything == sorted(raw.keys())
        for key in everything:
            assert [entry.key for entry in backend.walk("v1/", after=key)] == [k for k in everything if k > key]
        assert [entry.key for entry in backend.walk("v1/", after="v1/a/~")] == everything[4:], (
            "the whole folder is over"
        )

    def test_a_walk_goes_on_over_pages(self, backend: Backend, raw: Raw) -> None:
        names = [f"v1/many/{number:05d}" for number in range(1105)]
        for name in names:
            raw.put(name, b"")
        assert [entry.key for entry in backend.walk("v1/many/")] == names
        assert [entry.key for entry in backend.walk("v1/many/", after=names[1050])] == names[1051:]

    def test_ages_are_the_stores_own_and_a_new_write_makes_young(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_bytes(b"blob")
        before = store_now(backend)
        backend.put_file("v1/blob", tmp_path / "file")
        first = backend.entry("v1/blob")
        assert first is not None
        assert timedelta() <= first.modified - before.replace(microsecond=0) < timedelta(minutes=1)
        (listed,) = backend.walk("v1/")
        assert abs(listed.modified - first.modified) < timedelta(seconds=1), "a head and a listing say the same"
        while store_now(backend) - first.modified < timedelta(seconds=1.1):  # the coarsest clock of a store
            pass
        backend.put_file("v1/blob", tmp_path / "file")
        second = backend.entry("v1/blob")
        assert second is not None
        assert second.modified > first.modified
        assert list(backend.walk("v1/probes/")) == [], "asking for the time leaves nothing"

    def test_a_write_that_never_ended_is_found_and_given_back(
        self, backend: Backend, raw: Raw, unfinished: Callable[[], None], tmp_path: Path
    ) -> None:
        assert list(backend.unfinished()) == []
        before = store_now(backend)
        unfinished()
        unfinished()
        found = list(backend.unfinished())
        assert len(found) == 2
        assert all(abs(write.modified - before) < timedelta(minutes=1) for write in found)
        for write in found:
            backend.discard(write)
            backend.discard(write)
        assert list(backend.unfinished()) == []
        assert raw.keys() == []

    def test_delete_removes(self, backend: Backend, raw: Raw) -> None:
        raw.put("v1/gone", b"x")
        backend.delete("v1/gone")
        assert raw.get("v1/gone") is None

    def test_the_probe_accepts_it_and_leaves_nothing(self, backend: Backend, raw: Raw) -> None:
        probe(backend)
        assert raw.keys() == []
