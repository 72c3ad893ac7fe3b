"""Transfers: whatever breaks on the way, what arrives is the object and the digest is that of what arrived."""

import hashlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from adapter_store import transfers
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import StoreUnavailable
from adapter_store.transfers import download


class Shaky(FilesystemBackend):
    """Breaks off after some bytes, `breaks` times; answers as many connections as it is told."""

    def __init__(self, root: Path, *, breaks: int, after: int, parallel: int) -> None:
        super().__init__(root)
        self._breaks, self._after, self._parallel = breaks, after, parallel
        self.offsets: list[int] = []

    @property
    def parallel_reads(self) -> int:
        return self._parallel

    def read_into(
        self, key: str, take: Callable[[], memoryview], *, offset: int = 0, length: int | None = None
    ) -> Generator[memoryview]:
        self.offsets.append(offset)
        seen = 0
        for piece in super().read_into(key, take, offset=offset, length=length):
            if self._breaks and seen >= self._after:
                self._breaks -= 1
                raise StoreUnavailable("broken off")
            seen += len(piece)
            yield piece


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(transfers, "_PIECE", 1000)
    monkeypatch.setattr(transfers, "PART_BYTES", 10_000)
    monkeypatch.setattr(transfers, "JUDGED_BYTES", 5_000)
    data = bytes(range(251)) * 400
    (tmp_path / "source").write_bytes(data)
    FilesystemBackend(tmp_path / "store").put_file("v1/x", tmp_path / "source")
    return data


def fetch(backend: Shaky, size: int, tmp_path: Path) -> tuple[str, bytes]:
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        digest = download(backend, "v1/x", size, file.fileno())
    return digest, (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("speed", [0.0, float("inf")], ids=["fast", "slow"])
@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("breaks", [0, 1, 3])
def test_a_broken_range_goes_on_where_it_broke(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, breaks: int, parallel: int, speed: float
) -> None:
    monkeypatch.setattr(transfers, "FAST_BYTES_S", speed)
    backend = Shaky(tmp_path / "store", breaks=breaks, after=3_000, parallel=parallel)
    digest, arrived = fetch(backend, len(data), tmp_path)
    assert arrived == data
    assert digest == hashlib.sha256(data).hexdigest()
    split = parallel > 1 and speed > 0
    assert (len(backend.offsets) - breaks > 1) == split, "only a slow connection is helped by others"
    assert len(backend.offsets) < breaks + 12


def test_a_server_that_takes_long_to_begin_is_not_slow(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    class LateToBegin(Shaky):
        def read_into(self, *args: Any, **named: Any) -> Generator[memoryview]:
            nonlocal now
            now += 10.0
            yield from super().read_into(*args, **named)

    monkeypatch.setattr(transfers.time, "monotonic", lambda: now)
    monkeypatch.setattr(transfers, "FAST_BYTES_S", 1e6)
    backend = LateToBegin(tmp_path / "store", breaks=0, after=0, parallel=4)
    assert fetch(backend, len(data), tmp_path)[1] == data
    assert len(backend.offsets) == 1, "further connections would wait as long"


@pytest.mark.parametrize("parallel", [1, 4])
def test_one_that_keeps_breaking_is_given_up(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    monkeypatch.setattr(transfers, "FAST_BYTES_S", float("inf"))
    with pytest.raises(StoreUnavailable, match="broken off"):
        fetch(Shaky(tmp_path / "store", breaks=10**6, after=0, parallel=parallel), len(data), tmp_path)


@pytest.mark.parametrize("speed", [0.0, float("inf")], ids=["fast", "slow"])
@pytest.mark.parametrize("claimed", [0, 1, 99_999, 100_399, 100_401, 200_000])
def test_an_object_of_another_size_has_another_digest(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, claimed: int, speed: float
) -> None:
    monkeypatch.setattr(transfers, "FAST_BYTES_S", speed)
    expected = hashlib.sha256(data[:claimed]).hexdigest()
    digest, arrived = fetch(Shaky(tmp_path / "store", breaks=0, after=0, parallel=4), claimed, tmp_path)
    assert len(arrived) == min(claimed + 1, len(data)), (
        "one byte more tells; reading all of a giant would fill the disk"
    )
    assert claimed > len(data) or digest != expected
