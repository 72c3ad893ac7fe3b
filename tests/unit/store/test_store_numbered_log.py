"""Numbers have one winner each, and the newest record is read with one short listing."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import CorruptRecord, VersionConflict
from adapter_store.numbered_log import Numbered, NumberedLog


class Note(Numbered):
    text: str


def open_log(root: Path) -> NumberedLog[Note]:
    return NumberedLog(FilesystemBackend(root), "v1/log/", Note, "the test's log")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=15))
def test_writers_in_any_interleaving_make_one_log_without_gaps(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool]]
) -> None:
    """Three writers read and append in any order; an append succeeds exactly when nobody wrote since the read."""
    root = tmp_path_factory.mktemp("log")
    seen, logs, model = [0, 0, 0], [open_log(root) for _ in range(3)], list[str]()
    for number, (writer, reads) in enumerate(steps):
        if reads:
            current = logs[writer].current()
            seen[writer] = current.number if current else 0
            continue
        record = Note(number=seen[writer] + 1, text=f"{writer}.{number}")
        if seen[writer] == len(model):
            logs[writer].append(record)
            model.append(record.text)
        else:
            with pytest.raises(VersionConflict) as lost:
                logs[writer].append(record)
            assert lost.value.current == len(model)
    history = open_log(root).history(limit=100)
    assert [(note.number, note.text) for note in reversed(history)] == list(enumerate(model, 1))


class CountingBackend(FilesystemBackend):
    listed = 0

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        self.listed += limit
        return super().children(prefix, after=after, limit=limit)


def test_the_newest_of_more_than_a_thousand_is_found_with_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # five seconds of it, and no power cut is tested here
    backend = CountingBackend(tmp_path)
    log = NumberedLog(backend, "v1/log/", Note, "the test's log")
    for number in range(1, 1102):
        log.append(Note(number=number, text=f"{number}"))
    current = log.current()
    assert current is not None
    assert (current.number, backend.listed) == (1101, 1)
    assert [note.number for note in log.history(limit=3, before=1000)] == [999, 998, 997]


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(Note(number=1, text="sound"))
    (file,) = (tmp_path / "v1/log").iterdir()
    file.write_bytes(file.read_bytes().replace(b"sound", b"other"))
    with pytest.raises(CorruptRecord, match="checksum"):
        log.current()


def test_a_record_under_another_number_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(Note(number=1, text="one"))
    log.append(Note(number=2, text="two"))
    newest, oldest = sorted((tmp_path / "v1/log").iterdir())
    newest.write_bytes(oldest.read_bytes())
    with pytest.raises(CorruptRecord, match="says that it is number 1"):
        log.current()


def test_a_foreign_object_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(Note(number=1, text="one"))
    (tmp_path / "v1/log/0-readme.txt").touch()
    with pytest.raises(CorruptRecord, match="foreign"):
        log.current()
