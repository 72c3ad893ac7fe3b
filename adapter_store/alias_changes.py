"""Changes of aliases: appended to their logs under expected numbers and request ids, and taken back when a deletion was faster.

Owns races: of two changes, of a change and its repeat, of a move and a deletion. Does not own which changes there are (`aliases`).
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.errors import BeingPurged, NotFound, VersionConflict
from adapter_store.idempotency import Request, made_by, marks
from adapter_store.manifest import AliasRecord
from adapter_store.numbered_log import NumberedLog
from adapter_store.versions import Versions

_TRIES = 50  # of a change that lost a race; each loss means that somebody else got on
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One wanted change of an alias.

    Attributes:
        check: called with the current record; raises what forbids the change whoever wins.
        move: returns the new record's fields, None when there is nothing to do; the route stays unless it is among them.
        expected, by, reason, request: as in `Aliases.set`.
    """

    tenant: str
    adapter: str
    alias: str
    check: Callable[[AliasRecord | None], None]
    move: Callable[[AliasRecord | None], dict[str, object] | None]
    expected: int | None
    by: str
    reason: str
    request: Request | None


class AliasChanges:
    """Changes of all aliases.

    Args:
        backend: where the logs lie.
        versions: asked to take back deletions of what an alias has come to name.
    """

    def __init__(self, backend: Backend, versions: Versions) -> None:
        self._backend, self._versions = backend, versions

    def apply(self, change: AliasChange) -> AliasRecord:
        """Appends what a change makes of the current record; again when a race was lost, once when it is repeated.

        Raises:
            VersionConflict: the current number is not the expected one.
            RequestIdReused: the request's id belongs to another one.
            BeingPurged, NotFound: a version that it names is being removed; the alias goes back.
        """
        tenant, adapter, alias = change.tenant, change.adapter, change.alias
        log = self.log(tenant, adapter, alias)
        lost = None
        for _ in range(_TRIES):
            current = log.current()
            if (number := made_by(current, change.request)) is not None:
                found = log.at(number)
                return self._settle(log, found, current, log.at(number - 1) if number > 1 else None)
            change.check(current)
            number = current.number if current else 0
            if change.expected is not None and number != change.expected:
                raise VersionConflict(
                    f"alias {alias} of adapter {adapter} is at number {number}, not {change.expected}; "
                    "read it and try again",
                    number,
                )
            update = change.move(current)
            if update is None and current:
                return current
            fixed = {"number": number + 1, "tenant": tenant, "adapter": adapter, "alias": alias, "by": change.by}
            about = {"reason": change.reason[:_MAX_REASON], "at": datetime.now(UTC)}
            noted = {"requests": marks(current, change.request, number + 1)}
            kept = {"route": current.route, "target": current.target} if current and not current.removed else {}
            record = AliasRecord.model_validate(fixed | about | noted | kept | (update or {}))
            try:
                return self._settle(log, log.append(record), record, current)
            except VersionConflict as conflict:
                # Also with `expected`: the record that was faster may be this very request's, sent twice.
                lost = conflict
        assert lost is not None
        raise lost

    def _settle(
        self,
        log: NumberedLog[AliasRecord],
        record: AliasRecord,
        current: AliasRecord | None,
        before: AliasRecord | None,
    ) -> AliasRecord:
        """Ends a change: a deletion may have come between the look at the version and the move; then the alias wins, or
        goes back.

        A repeat does it too, because whoever wrote the record may have died before.
        """
        if record != current or record.removed:
            return record
        try:
            for share in record.shares:
                self._versions.take_back_deletion(
                    record.tenant, record.adapter, share.version, by=record.by, reason=f"alias {record.alias} names it"
                )
        except (BeingPurged, NotFound):
            # Deleted so long ago that it is being removed: no alias may be left that names it.
            fields = ("version", "split", "restores", "removed", "route", "target")
            back = {name: getattr(before, name) for name in fields} if before else {"removed": True, "restores": 0}
            change = {**back, "number": record.number + 1, "reason": "the version was being removed"}
            with suppress(VersionConflict):  # somebody else has moved it on
                log.append(record.model_copy(update=change))
            raise
        return record

    def log(self, tenant: str, adapter: str, alias: str) -> NumberedLog[AliasRecord]:
        """The log of an alias."""
        prefix = layout.alias_log(tenant, adapter, alias)
        return NumberedLog(self._backend, prefix, AliasRecord, f"alias {alias} of adapter {adapter}")
