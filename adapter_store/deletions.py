"""Deletion logs: what is hidden from callers, since when, and until when its bytes must stay.

Owns the states that `manifest.DeletionRecord` describes, but for the collector's own (`purging`, `purged`). Does not own
whether something may be deleted (`adapter_store.removal`) nor the removal of bytes (garbage collection).
"""

from datetime import UTC, datetime, timedelta

from adapter_store.backends.protocol import Backend
from adapter_store.errors import BeingPurged, VersionConflict
from adapter_store.idempotency import Request, made_by, marks, without
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

    def revived_at(self, log: str) -> datetime | None:
        """When the thing with this log was last taken back; None when it never was, or is deleted now."""
        record = self._log(log).current()
        return record.at if record is not None and record.state == "live" else None

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

    def made(self, log: str, request: Request | None) -> DeletionRecord | None:
        """Returns the deletion that a request made before; None when it made none. Costs nothing without a request."""
        if request is None:
            return None
        number = made_by(self._log(log).current(), request)
        return None if number is None else self._log(log).at(number)

    def made_below(self, parent: str, request: Request | None) -> dict[str, DeletionRecord]:
        """Like `made`, of all logs below `layout.deletions`; by name."""
        found: dict[str, DeletionRecord] = {}
        after = ""
        while request and (names := self._backend.children(parent, after=after, limit=MAX_SIZE)):
            for name in names:
                if record := self.made(parent + name, request):
                    found[name.removesuffix("/")] = record
            after = names[-1]
        return found

    def hide(self, log: str, tenant: str, *, by: str, reason: str, request: Request | None = None) -> DeletionRecord:
        """Deletes: hidden from now on. Repeating it changes nothing."""
        for _ in range(_TRIES):
            current = self._log(log).current()
            if (made := made_by(current, request)) is not None:
                return self._log(log).at(made)
            if current and current.hides:
                return current
            now = _now()
            number = (current.number if current else 0) + 1
            record = DeletionRecord(
                number=number,
                tenant=tenant,
                state="deleted",
                at=now,
                purge_after=now + self._grace,
                by=by,
                reason=reason[:_MAX_REASON],
                requests=marks(current, request, number),
            )
            try:
                return self._log(log).append(record)
            except VersionConflict as conflict:
                lost = conflict
        raise lost

    def revive(self, log: str, tenant: str, *, by: str, reason: str, undone: Request | None = None) -> bool:
        """Takes a deletion back. Returns whether there was one.

        Args:
            log: of what comes back.
            tenant: its owner.
            by: who takes it back.
            reason: why.
            undone: the request whose own deletion this is; it counts as never carried out.

        Raises:
            BeingPurged: garbage collection has begun to remove it.
        """
        for _ in range(_TRIES):
            current = self._log(log).current()
            if current is None or not current.hides:
                return False
            if current.state == "purging":
                raise BeingPurged(
                    "the same content was deleted and is being removed right now; publish it again in a minute"
                )
            record = DeletionRecord(
                number=current.number + 1,
                tenant=tenant,
                state="live",
                at=_now(),
                by=by,
                reason=reason[:_MAX_REASON],
                requests=without(current, undone) if undone else current.requests,
            )
            try:
                self._log(log).append(record)
                return True
            except VersionConflict as conflict:
                lost = conflict
        raise lost

    def _log(self, prefix: str) -> NumberedLog[DeletionRecord]:
        return NumberedLog(
            self._backend, prefix, DeletionRecord, f"deletions of {prefix.rstrip('/').rsplit('/', 1)[-1]}"
        )


def _now() -> datetime:
    return datetime.now(UTC)
