"""Files made ahead: who takes one sees a new file of the right size, and the disk holds nothing of those that nobody took."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapter_store import layout, spare_files
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.blobs import Blobs
from adapter_store.errors import CorruptBlob
from adapter_store.spare_files import COUNT, LEAST_BYTES, SpareFiles

SIZE = 3 * LEAST_BYTES


@pytest.fixture
def spares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpareFiles]:
    monkeypatch.setattr(spare_files, "_REST_S", 0)
    made = SpareFiles(tmp_path / "spare", quiet_s=0)
    yield made
    made.close()
    assert not (tmp_path / "spare").exists()


def filled(spares: SpareFiles, tmp_path: Path) -> list[Path]:
    """After the first file of its size."""
    spares.new_file(tmp_path / "first", SIZE).close()
    assert spares.full.wait(60)
    return sorted((tmp_path / "spare").iterdir())


def test_a_file_of_that_size_is_one_that_was_made_ahead(spares: SpareFiles, tmp_path: Path) -> None:
    kept = filled(spares, tmp_path)
    assert len(kept) == COUNT
    assert [(one.stat().st_size, one.stat().st_blocks) for one in kept] == [(SIZE, 0)] * COUNT
    nodes = {one.stat().st_ino for one in kept}
    with spares.new_file(tmp_path / "taken", SIZE - 100) as file:
        assert os.fstat(file.fileno()).st_ino in nodes
        assert os.fstat(file.fileno()).st_size == SIZE - 100
        assert file.write(b"x" * 10) == 10
        file.seek(0)
        assert file.read(12) == b"x" * 10 + b"\0\0"
    assert os.stat(tmp_path / "taken").st_nlink == 1, "no spare any more"


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SpareFiles, threading.Semaphore]]:
    """Spares without any lull, and what tells that one is there and their thread waits for it."""
    monkeypatch.setattr(spare_files, "_REST_S", 0)
    made, waits = SpareFiles(tmp_path / "spare", quiet_s=3600), threading.Semaphore(0)
    monkeypatch.setattr(made._lull, "wait", _telling(made._lull.wait, waits))
    yield made, waits
    made.close()


def test_while_files_follow_one_another_only_the_next_one_is_made(
    following: tuple[SpareFiles, threading.Semaphore], tmp_path: Path
) -> None:
    spares, waits = following
    for number in range(3):
        spares.new_file(tmp_path / str(number), SIZE).close()
        assert waits.acquire(timeout=60)
        assert len(spares._spares) == 1
    assert not spares.full.is_set()


def test_when_files_of_another_size_are_wanted_those_are_made_also_while_it_waits(
    following: tuple[SpareFiles, threading.Semaphore], tmp_path: Path
) -> None:
    spares, waits = following
    for number, size in enumerate((SIZE, 2 * SIZE, 2 * SIZE)):
        with spares.new_file(tmp_path / str(number), size) as file:
            spare = os.fstat(file.fileno()).st_size
        assert spare == (size if number == 2 else 0), "the third finds one of its size"
        assert waits.acquire(timeout=60)
        assert [one.stat().st_size for one in spares._spares] == [size]


def test_a_spare_of_a_size_that_was_wanted_before_is_not_taken_for_a_larger_one(
    spares: SpareFiles, tmp_path: Path
) -> None:
    filled(spares, tmp_path)
    spares._size = 2 * SIZE  # as when those of the other size are not made yet
    with spares.new_file(tmp_path / "large", 2 * SIZE) as file:
        assert os.fstat(file.fileno()).st_size == 0, "a new one"


def _telling(wait: Callable[[Callable[[], bool]], bool], asked: threading.Semaphore) -> Callable[..., bool]:
    """A `Lull.wait` that tells when a piece is not needed now."""

    def told(needed: Callable[[], bool]) -> bool:
        def ask() -> bool:
            if not (now := needed()):
                asked.release()
            return now

        return wait(ask)

    return told


@pytest.mark.parametrize("size", [LEAST_BYTES - 1, LEAST_BYTES // 2, SIZE + 1, SIZE // 4 - 1])
def test_others_are_new_files(spares: SpareFiles, tmp_path: Path, size: int) -> None:
    nodes = {one.stat().st_ino for one in filled(spares, tmp_path)}
    with spares.new_file(tmp_path / "other", size) as file:
        found = os.fstat(file.fileno())
    assert found.st_ino not in nodes
    assert found.st_size == 0


def test_a_file_that_is_there_is_never_replaced(spares: SpareFiles, tmp_path: Path) -> None:
    filled(spares, tmp_path)
    (tmp_path / "held").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        spares.new_file(tmp_path / "held", SIZE)
    assert (tmp_path / "held").read_bytes() == b"mine"


def test_spares_that_somebody_deleted_are_done_without(spares: SpareFiles, tmp_path: Path) -> None:
    for one in filled(spares, tmp_path):
        one.unlink()
    with spares.new_file(tmp_path / "new", SIZE) as file:
        assert file.write(b"x") == 1


def test_sizes_change(spares: SpareFiles, tmp_path: Path) -> None:
    filled(spares, tmp_path)
    spares.new_file(tmp_path / "second", 2 * SIZE).close()
    assert spares.full.wait(60)
    assert {one.stat().st_size for one in (tmp_path / "spare").iterdir()} == {2 * SIZE}


def test_a_disk_that_takes_no_file_stops_nothing(
    spares: SpareFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(spare_files.os, "ftruncate", full)
    for number in range(3):
        with spares.new_file(tmp_path / str(number), SIZE) as file:
            assert file.write(b"x") == 1


def test_a_spare_that_cannot_be_cut_leaves_no_file(
    spares: SpareFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(spares, tmp_path)

    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(spare_files.os, "ftruncate", full)
    with pytest.raises(OSError, match="no space left"):
        spares.new_file(tmp_path / "cut", SIZE)
    assert not (tmp_path / "cut").exists()


def test_what_an_earlier_process_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "spare").mkdir()
    (tmp_path / "spare" / "left").write_bytes(b"x")
    SpareFiles(tmp_path / "spare").close()
    assert not (tmp_path / "spare").exists()


def test_what_is_fetched_into_one_is_verified_as_ever(spares: SpareFiles, tmp_path: Path) -> None:
    """Too short, its rest would be the spare's zeros; too long or changed, it is not the object."""
    (tmp_path / "objects").mkdir()
    backend = FilesystemBackend(tmp_path / "objects")
    blobs = Blobs(backend)
    content = os.urandom(SIZE)
    digest, size = blobs.put_bytes("acme", content)
    filled(spares, tmp_path)
    blobs.fetch("acme", digest, size, tmp_path / "sound", make=spares.new_file)
    assert (tmp_path / "sound").read_bytes() == content
    for number, damaged in enumerate(
        (content[:-7], content + b"7", bytes(SIZE), content[:100] + bytes([content[100] ^ 1]) + content[101:])
    ):
        (tmp_path / "damaged").write_bytes(damaged)
        backend.put_file(layout.blob("acme", digest), tmp_path / "damaged")
        with pytest.raises(CorruptBlob):
            blobs.fetch("acme", digest, size, tmp_path / f"out{number}", make=spares.new_file)
        assert not (tmp_path / f"out{number}").exists()
