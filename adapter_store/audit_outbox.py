"""Entries of the audit log on their way to the store: on local disk first, so that neither a killed process nor a store that is away
loses one.

Owns the folder and the thread that empties it. An entry is written before the call that it is about is carried out, and again when
that has ended; what a dead process left without an end is sent as `unknown`. Does not own what entries say.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

import structlog
from pydantic import ValidationError

from adapter_store import documents
from adapter_store.audit import Audit, AuditEntry
from adapter_store.errors import CorruptRecord

UNKNOWN = "unknown"
_PAUSES_S = (0.5, 1, 2, 5, 10, 30)
"""Before the first, second, ... repeat to a store that is away; the last one repeats."""

log = structlog.get_logger(__name__)


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
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
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

    def flush(self, timeout: float) -> bool:
        """Waits until everything that has ended is in the store, at most `timeout` seconds; tells whether it is."""
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
                self._changed.wait_for(lambda: self._ready or self._closing)
                if self._closing:
                    return
                entry = next(iter(self._ready.values()))
            try:
                self._audit.append(entry)
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
        for entry in sorted(left, key=lambda entry: entry.at):
            self._ready[entry.id] = entry

    def _write(self, entry: AuditEntry) -> None:
        """Writes atomically and durably. On a disk that takes nothing the entry goes on in memory, and into the log: an operator
        must be able to remove what fills it."""
        path = self._path(entry.id)
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.write(documents.encode(entry))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            log.error("audit entry not on disk", cause=str(error), **entry.model_dump(mode="json", exclude={"changes"}))
            with suppress(OSError):  # else each refused entry would keep a piece of the disk that is full
                partial.unlink(missing_ok=True)

    def _remove(self, entry_id: str) -> None:
        try:
            self._path(entry_id).unlink(missing_ok=True)
        except OSError as error:  # sent once more by the next process, which changes nothing
            log.warning("a sent audit entry stays in the outbox", entry=entry_id, cause=str(error))

    def _path(self, entry_id: str) -> Path:
        return self._folder / f"{entry_id}.json"
