"""The outbox: what has begun is on disk before it is done, and reaches the store whatever happens in between."""

import errno
import shutil
import threading
from pathlib import Path

import pytest

from adapter_store import audit_outbox, documents
from adapter_store.audit import Audit, AuditEntry
from adapter_store.audit_outbox import Outbox
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import StoreUnavailable
from tests.unit.store.test_store_audit import entry


class Faulty(FilesystemBackend):
    """Is away until it is let back."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.back, self.refused = threading.Event(), threading.Event()

    def create(self, key: str, data: bytes) -> bool:
        if not self.back.is_set():
            self.refused.set()
            raise StoreUnavailable("the store is away")
        return super().create(key, data)


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(FilesystemBackend(tmp_path / "store"))


def begun(number: int) -> AuditEntry:
    return entry(number).model_copy(update={"outcome": "unknown"})


def stored(audit: Audit) -> list[AuditEntry]:
    """What is in the store, newest first, without its place in the chain."""
    return [one.model_copy(update={"writer": "", "number": 0, "previous": ""}) for one in audit.page().items]


def entries_in(folder: Path) -> list[str]:
    """Files of entries, and pieces of files."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "chain")


def test_what_has_begun_is_on_disk_and_only_what_has_ended_is_sent(audit: Audit, tmp_path: Path) -> None:
    outbox, one, two = Outbox(audit, tmp_path / "out"), begun(1), begun(2)
    outbox.begin(one)
    outbox.begin(two)
    assert len(list((tmp_path / "out").glob("*.json"))) == 2
    ended = two.model_copy(update={"outcome": "ok"})
    outbox.end(ended)
    assert outbox.flush(10)
    assert stored(audit) == [ended]
    outbox.drop(one)
    outbox.close(10)
    assert entries_in(tmp_path / "out") == []


def test_what_a_dead_process_left_is_sent_with_its_end_or_as_unknown(audit: Audit, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    ended, cut_off = entry(1), begun(2)
    for one in (ended, cut_off):
        (folder / f"{one.id}.json").write_bytes(documents.encode(one))
    (folder / "half.partial").write_bytes(b"{")
    (folder / "broken.json").write_bytes(b"{")
    outbox = Outbox(audit, folder)
    assert outbox.flush(10)
    outbox.close(10)
    assert stored(audit) == [cut_off, ended]
    assert entries_in(folder) == ["broken.json"], "what cannot be read is kept for people"


def test_a_store_that_is_away_delays_entries_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_outbox, "_PAUSES_S", (0.01,))
    backend = Faulty(tmp_path / "store")
    outbox = Outbox(Audit(backend), tmp_path / "out")
    written = [entry(number) for number in range(3)]
    for one in written:
        outbox.end(one)
    assert backend.refused.wait(10)
    assert not outbox.flush(0)
    backend.back.set()
    assert outbox.flush(10)
    outbox.close(10)
    assert stored(Audit(backend)) == written[::-1]


def test_a_process_that_stops_while_the_store_is_away_leaves_its_entries_to_the_next(tmp_path: Path) -> None:
    backend = Faulty(tmp_path / "store")
    outbox, one = Outbox(Audit(backend), tmp_path / "out"), entry(1)
    outbox.end(one)
    assert backend.refused.wait(10)
    outbox.close(0.01)
    backend.back.set()
    again = Outbox(Audit(backend), tmp_path / "out")
    assert again.flush(10)
    again.close(10)
    assert stored(Audit(backend)) == [one]


def test_a_disk_that_takes_nothing_does_not_stop_the_entry(audit: Audit, tmp_path: Path) -> None:
    outbox, one = Outbox(audit, tmp_path / "out"), entry(1)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("no folder any more")
    outbox.begin(begun(1))
    outbox.end(one)
    assert outbox.flush(10)
    assert stored(audit) == [one]


def test_a_full_disk_keeps_no_piece_of_an_entry(audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take room on the disk that has none, until the next start."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    outbox, one = Outbox(audit, tmp_path / "out"), entry(1)
    monkeypatch.setattr(audit_outbox.os, "fsync", full)
    outbox.begin(begun(1))
    assert entries_in(tmp_path / "out") == []
    monkeypatch.undo()
    outbox.end(one)
    assert outbox.flush(10)
    outbox.close(10)
    assert stored(audit) == [one]
