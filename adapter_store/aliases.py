"""Aliases: names that move between an adapter's versions, with their whole history.

Owns moving, splitting and reading them. An alias only ever names versions that were complete when it moved. Does not own
the choice between the versions of a split, nor policies of serving.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.errors import BeingPurged, InvalidSplit, NotFound, NothingBefore, VersionConflict
from adapter_store.idempotency import Request, made_by, marks
from adapter_store.manifest import AliasRecord, AliasShare
from adapter_store.numbered_log import NumberedLog
from adapter_store.paging import MAX_SIZE, Page
from adapter_store.versions import Versions

DEFAULT_ALIAS = "prod"
MAX_SHARES = 10
"""Versions of a split alias."""
_TRIES = 50  # of a change that lost a race; each loss means that somebody else got on
_HISTORY = 20  # records read at once on the way back
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True)
class _Change:
    """One wanted change of an alias.

    Attributes:
        check: called with the current record; raises what forbids the change whoever wins.
        move: returns the new record's fields, None when there is nothing to do.
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


class Aliases:
    """Aliases of all tenants' adapters."""

    def __init__(self, backend: Backend, versions: Versions) -> None:
        self._backend, self._versions = backend, versions

    def get(self, tenant: str, adapter: str, alias: str) -> AliasRecord:
        """Returns where an alias points now. Raises NotFound when it was never set."""
        record = self._log(tenant, adapter, alias).current()
        if record is None or record.removed:
            raise _missing(adapter, alias)
        return record

    def set(
        self,
        tenant: str,
        adapter: str,
        alias: str,
        version: str,
        *,
        expected: int | None = None,
        by: str,
        reason: str,
        request: Request | None = None,
    ) -> AliasRecord:
        """Points an alias at a version. Nothing is written when it points there already.

        Args:
            tenant: the owner.
            adapter: the adapter.
            alias: the alias; made when new.
            version: digest of an existing version.
            expected: number of the record that the caller believes is current, 0 for a new alias; None: whatever it is.
            by: who moves it.
            reason: why; cut to 1000 characters.
            request: when it made a record of this alias before, that one is the answer and nothing is written.

        Raises:
            NotFound: no such version.
            VersionConflict: the current number is not `expected`.
            RequestIdReused: the request's id belongs to another one.
        """

        def check(_: AliasRecord | None) -> None:
            self._versions.get(tenant, adapter, version)

        def move(current: AliasRecord | None) -> dict[str, object] | None:
            there = current is not None and not current.removed and current.version == version and not current.split
            return None if there else {"version": version}

        return self._change(_Change(tenant, adapter, alias, check, move, expected, by, reason, request))

    def split(
        self,
        tenant: str,
        adapter: str,
        alias: str,
        weights: Mapping[str, int],
        *,
        expected: int | None = None,
        by: str,
        reason: str,
        request: Request | None = None,
    ) -> AliasRecord:
        """Shares an alias's requests out between versions. Nothing is written when it is split so already.

        Args:
            tenant, adapter, alias: the alias; made when new.
            weights: by digest, 2 to MAX_SHARES of them, each 1 to 1000; what counts is their relation.
            expected, by, reason, request: as in `set`.

        Raises:
            InvalidSplit: too few or too many versions, or a weight outside of its bounds.
            NotFound: no such version.
            VersionConflict: the current number is not `expected`.
        """
        if not 2 <= len(weights) <= MAX_SHARES or not all(1 <= weight <= 1000 for weight in weights.values()):
            raise InvalidSplit(f"a split has 2 to {MAX_SHARES} different versions with weights from 1 to 1000")
        shares = tuple(AliasShare(version=version, weight=weights[version]) for version in sorted(weights))
        heaviest = max(shares, key=lambda share: share.weight).version

        def check(_: AliasRecord | None) -> None:
            for version in weights:
                self._versions.get(tenant, adapter, version)

        def move(current: AliasRecord | None) -> dict[str, object] | None:
            there = current is not None and not current.removed and current.split == shares
            return None if there else {"version": heaviest, "split": shares}

        return self._change(_Change(tenant, adapter, alias, check, move, expected, by, reason, request))

    def roll_back(
        self,
        tenant: str,
        adapter: str,
        alias: str,
        *,
        expected: int | None = None,
        by: str,
        reason: str,
        request: Request | None = None,
    ) -> AliasRecord:
        """Points an alias at the version that it named before; again goes one further back, not forth again.

        Args:
            tenant, adapter, alias: the alias.
            expected, by, reason, request: as in `set`.

        Raises:
            NotFound: it was never set, or is removed.
            NothingBefore: it has named no other version that is still there.
            VersionConflict: the current number is not `expected`.
        """

        def move(current: AliasRecord | None) -> dict[str, object]:
            if current is None or current.removed:
                raise _missing(adapter, alias)
            before = self._before(current)
            # What that record itself had gone back to: from a version that was rolled back, nobody wants to return to it.
            return {"version": before.version, "split": before.split, "restores": before.restores or before.number}

        return self._change(
            _Change(tenant, adapter, alias, _was_set(adapter, alias), move, expected, by, reason, request)
        )

    def remove(
        self,
        tenant: str,
        adapter: str,
        alias: str,
        *,
        expected: int | None = None,
        by: str,
        reason: str,
        request: Request | None = None,
    ) -> AliasRecord:
        """Makes an alias resolve to nothing; its history stays, and it can be set again. Arguments as in `roll_back`.

        Raises:
            NotFound: it was never set, or is removed already.
            VersionConflict: the current number is not `expected`.
        """

        def move(current: AliasRecord | None) -> dict[str, object]:
            if current is None or current.removed:
                raise _missing(adapter, alias)
            return {"version": current.version, "removed": True}

        return self._change(
            _Change(tenant, adapter, alias, _was_set(adapter, alias), move, expected, by, reason, request)
        )

    def history(self, tenant: str, adapter: str, alias: str, *, limit: int = MAX_SIZE) -> list[AliasRecord]:
        """Returns the alias's records, newest first, at most `limit`. Raises NotFound when it was never set."""
        records = self._log(tenant, adapter, alias).history(limit=limit)
        if not records:
            raise _missing(adapter, alias)
        return records

    def history_page(
        self, tenant: str, adapter: str, alias: str, page_size: int = 0, page_token: str = ""
    ) -> Page[AliasRecord]:
        """Like `history`, in pages."""
        page = self._log(tenant, adapter, alias).page(page_size, page_token)
        if not page.items and not page_token:
            raise _missing(adapter, alias)
        return page

    def list(self, tenant: str, adapter: str) -> tuple[AliasRecord, ...]:
        """Returns the current records of an adapter's aliases by name; at most 1000, empty for an unknown adapter."""
        names = self._backend.children(layout.aliases(tenant, adapter), limit=MAX_SIZE)
        records = (self._log(tenant, adapter, name.removesuffix("/")).current() for name in names)
        return tuple(record for record in records if record is not None and not record.removed)

    def _before(self, current: AliasRecord) -> AliasRecord:
        """The newest record, older than where `current` points from, of another version that is still there."""
        log, before = self._log(current.tenant, current.adapter, current.alias), current.restores or current.number
        while records := log.history(limit=_HISTORY, before=before):
            for record in records:
                if record.removed or record.shares == current.shares:
                    continue
                with suppress(NotFound):
                    for share in record.shares:
                        self._versions.get(record.tenant, record.adapter, share.version)
                    return record
            before = records[-1].number
        raise NothingBefore(
            f"alias {current.alias} of adapter {current.adapter} has named no other version that is still there; "
            "set it to a version instead"
        )

    def _change(self, change: _Change) -> AliasRecord:
        """Appends what a change makes of the current record; again when a race was lost, once when it is repeated."""
        tenant, adapter, alias = change.tenant, change.adapter, change.alias
        log = self._log(tenant, adapter, alias)
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
            record = AliasRecord.model_validate(fixed | about | noted | (update or {}))
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
            fields = ("version", "split", "restores", "removed")
            back = {name: getattr(before, name) for name in fields} if before else {"removed": True, "restores": 0}
            change = {**back, "number": record.number + 1, "reason": "the version was being removed"}
            with suppress(VersionConflict):  # somebody else has moved it on
                log.append(record.model_copy(update=change))
            raise
        return record

    def _log(self, tenant: str, adapter: str, alias: str) -> NumberedLog[AliasRecord]:
        prefix = layout.alias_log(tenant, adapter, alias)
        return NumberedLog(self._backend, prefix, AliasRecord, f"alias {alias} of adapter {adapter}")


def _was_set(adapter: str, alias: str) -> Callable[[AliasRecord | None], None]:
    """A check before `expected` is looked at: an alias that never was is not found, whatever number was expected."""

    def check(current: AliasRecord | None) -> None:
        if current is None:
            raise _missing(adapter, alias)

    return check


def _missing(adapter: str, alias: str) -> NotFound:
    return NotFound(f"no adapter {adapter} with an alias {alias}; `graft adapter list` shows what there is")
