"""Entries of the audit log on their way to the store: on local disk first, so that neither a killed process nor a store that is away
loses one.

Owns the folder and the thread that empties it, and so the chain that this process's entries make (`audit_chain`). An entry is
written before the call that it is about is carried out, and again when that has ended; what a dead process left without an end is
sent as `unknown`. Does not own what entries say.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

import structlog
from pydantic import ValidationError

from adapter_store import documents
from adapter_store.audit import Audit, AuditEntry
from adapter_store.audit_chain import Chain, Head
from adapter_store.errors import CorruptRecord

UNKNOWN = "unknown"
_LEFT = "left"
"""Folder of entries that other processes leave here, such as a job's worker."""
_LOOK_S = 1.0
"""Between two looks at it."""
_PAUSES_S = (0.5, 1, 2, 5, 10, 30)
"""Before the first, second, ... repeat to a store that is away; the last one repeats."""

log = structlog.get_logger(__name__)


def leave(folder: Path, entry: AuditEntry) -> None:
    """Leaves an entry for the process whose outbox this is, so that it takes its place in that process's chain; on disk, durably.

    Raises:
        OSError: it cannot be written.
    """
    (folder / _LEFT).mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_new(folder / _LEFT / f"{entry.id}.json", entry)


def _write_new(path: Path, entry: AuditEntry) -> None:
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(documents.encode(entry))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):  # else each refused entry would keep a piece of the disk that is full
            partial.unlink(missing_ok=True)
        raise


class Outbox:
    """The way of a process's entries to the store. One process per folder; used from several threads.

    Args:
        audit: the store's log.
        folder: this process's own; what a process before left in it is sent.
    """

    def __init__(self, audit: Audit, folder: Path) -> None:
        self._audit, self._folder = audit, folder
        self._changed = threading.Condition()
        self._ready: dict[str, AuditEntry] = {}
        """Ended entries by id, oldest first. They are in the folder too, unless that cannot be written."""
        self._closing = False
        self._collecting = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / _LEFT).mkdir(exist_ok=True, mode=0o700)
        self._chain = Chain(folder / "chain")
        self._take_over()
        self._thread = threading.Thread(target=self._run, name="audit-outbox", daemon=True)
        self._thread.start()

    def begin(self, entry: AuditEntry) -> None:
        """Notes a call that is about to be carried out; `end` it with the same id."""
        self._write(entry)

    def end(self, entry: AuditEntry) -> None:
        """Notes how it ended, and sends it. Also for an entry that was not begun."""
        self._write(entry)
        with self._changed:
            self._ready[entry.id] = entry
            self._changed.notify_all()

    def drop(self, entry: AuditEntry) -> None:
        """Forgets an entry that was begun."""
        self._remove(entry.id)

    def head(self) -> Head:
        """Where this process's chain stands: all entries up to there are in the store, and none behind."""
        return self._chain.head

    def flush(self, timeout: float) -> bool:
        """Waits until everything that has ended is in the store, at most `timeout` seconds; tells whether it is."""
        self._collect()
        with self._changed:
            return self._changed.wait_for(lambda: not self._ready, timeout)

    def close(self, timeout: float) -> None:
        """Sends what can be sent within `timeout` seconds, and ends; the rest is sent by the next process on this folder."""
        if not self.flush(timeout):
            log.warning("audit entries stay in the outbox until the next start", folder=str(self._folder))
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._closing, _LOOK_S)
                if self._closing:
                    return
                entry = next(iter(self._ready.values()), None)
            if entry is None:
                self._collect()
                continue
            try:
                self._send(entry)
            except Exception as error:  # whatever it is: this thread must go on, or no entry is sent any more
                pause = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
                failures += 1
                log.warning("audit entry not stored yet", entry=entry.id, cause=str(error), again_in_s=pause)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, pause)
                continue
            failures = 0
            self._remove(entry.id)
            with self._changed:
                del self._ready[entry.id]
                self._changed.notify_all()

    def _send(self, entry: AuditEntry) -> None:
        """Stores an entry at the end of the chain. A process that is killed in between has left it with its place in the folder, and
        its successor sends it just so."""
        head = self._chain.head
        if not entry.writer:
            entry = entry.model_copy(update={"writer": head.writer, "number": head.number + 1, "previous": head.digest})
            if not self._write(entry):
                self._chain.break_off()
            with self._changed:
                self._ready[entry.id] = entry
        next_one = (entry.writer, entry.number) == (head.writer, head.number + 1)
        if not self._audit.append(entry):
            log.warning("an audit entry of this moment and id is there already, and stays", entry=entry.id)
        elif next_one:
            self._chain.follow(entry.number, documents.digest(entry))

    def _collect(self) -> None:
        """Takes in what other processes left here for this one."""
        with self._collecting:
            self._take_in()

    def _take_in(self) -> None:
        for path in sorted((self._folder / _LEFT).glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            try:
                entry = documents.decode(AuditEntry, path.read_bytes(), f"the audit entry in {path}")
                os.replace(path, self._path(entry.id))
            except (CorruptRecord, OSError) as error:
                log.error("an audit entry that was left here cannot be read and stays there", cause=str(error))
                continue
            with self._changed:
                self._ready[entry.id] = entry
                self._changed.notify_all()

    def _take_over(self) -> None:
        """Makes ready what a process before left: with its end where it has one, else as unknown."""
        left = []
        for path in self._folder.glob("*.json"):
            try:
                left.append(documents.decode(AuditEntry, path.read_bytes(), f"the audit entry in {path}"))
            except (CorruptRecord, ValidationError, OSError) as error:  # on a disk that was full, or is failing
                log.error("an audit entry in the outbox cannot be read and stays there", cause=str(error))
        for path in self._folder.glob("*.partial"):
            path.unlink(missing_ok=True)
        # Those that have their place in the chain come first: one may be in the store already.
        for entry in sorted(left, key=lambda entry: (entry.number or float("inf"), entry.at)):
            self._ready[entry.id] = entry

    def _write(self, entry: AuditEntry) -> bool:
        """Writes atomically and durably. On a disk that takes nothing the entry goes on in memory, and into the log: an operator
        must be able to remove what fills it. Returns whether it is on disk."""
        try:
            _write_new(self._path(entry.id), entry)
        except OSError as error:
            log.error("audit entry not on disk", cause=str(error), **entry.model_dump(mode="json", exclude={"changes"}))
            return False
        return True

    def _remove(self, entry_id: str) -> None:
        try:
            self._path(entry_id).unlink(missing_ok=True)
        except OSError as error:  # sent once more by the next process, which changes nothing
            log.warning("a sent audit entry stays in the outbox", entry=entry_id, cause=str(error))

    def _path(self, entry_id: str) -> Path:
        return self._folder / f"{entry_id}.json"
