"""Deletion logs: what is hidden from callers, since when, and until when its bytes must stay.

Owns the states that `manifest.DeletionRecord` describes, but for the collector's own (`purging`, `purged`). Does not own
whether something may be deleted (`adapter_store.removal`) nor the removal of bytes (garbage collection).
"""

from datetime import UTC, datetime, timedelta

from adapter_store.backends.protocol import Backend
from adapter_store.errors import BeingPurged, VersionConflict
from adapter_store.manifest import DeletionRecord
from adapter_store.numbered_log import NumberedLog
from adapter_store.paging import MAX_SIZE

GRACE = timedelta(days=7)
"""How long the bytes of something deleted stay, so that a mistake can be undone by publishing it again."""
_TRIES = 20
_MAX_REASON = 1000


class Deletions:
    """Deletion logs by their prefix (`layout.deletion_log`, `layout.dataset_deletion_log`).

    Args:
        backend: the object store.
        grace: between a deletion and the first moment at which garbage collection may remove bytes.
    """

    def __init__(self, backend: Backend, grace: timedelta = GRACE) -> None:
        self._backend, self._grace = backend, grace

    def is_hidden(self, log: str) -> bool:
        """Whether the thing with this log is deleted. Costs one listing when it never was."""
        record = self._log(log).current()
        return record is not None and record.hides

    def any_below(self, parent: str) -> bool:
        """Whether anything below `layout.deletions` or `layout.dataset_deletions` was ever deleted; one listing."""
        return bool(self._backend.children(parent, limit=1))

    def hidden_below(self, parent: str) -> frozenset[str]:
        """Returns the names of what is deleted now; one listing when nothing ever was."""
        hidden: set[str] = set()
        after = ""
        while names := self._backend.children(parent, after=after, limit=MAX_SIZE):
            hidden.update(name.removesuffix("/") for name in names if self.is_hidden(parent + name))
            after = names[-1]
        return frozenset(hidden)

    def hide(self, log: str, tenant: str, *, by: str, reason: str) -> DeletionRecord:
        """Deletes: hidden from now on. Repeating it changes nothing."""
        for _ in range(_TRIES):
            current = self._log(log).current()
            if current and current.hides:
                return current
            now = _now()
            record = DeletionRecord(
                number=(current.number if current else 0) + 1,
                tenant=tenant,
                state="deleted",
                at=now,
                purge_after=now + self._grace,
                by=by,
                reason=reason[:_MAX_REASON],
            )
            try:
                return self._log(log).append(record)
            except VersionConflict as conflict:
                lost = conflict
        raise lost

    def revive(self, log: str, tenant: str, *, by: str, reason: str) -> None:
        """Takes a deletion back; nothing happens when there is none.

        Raises:
            BeingPurged: garbage collection has begun to remove it.
        """
        for _ in range(_TRIES):
            current = self._log(log).current()
            if current is None or not current.hides:
                return
            if current.state == "purging":
                raise BeingPurged(
                    "the same content was deleted and is being removed right now; publish it again in a minute"
                )
            record = DeletionRecord(
                number=current.number + 1, tenant=tenant, state="live", at=_now(), by=by, reason=reason[:_MAX_REASON]
            )
            try:
                self._log(log).append(record)
                return
            except VersionConflict as conflict:
                lost = conflict
        raise lost

    def _log(self, prefix: str) -> NumberedLog[DeletionRecord]:
        return NumberedLog(
            self._backend, prefix, DeletionRecord, f"deletions of {prefix.rstrip('/').rsplit('/', 1)[-1]}"
        )


def _now() -> datetime:
    return datetime.now(UTC)
