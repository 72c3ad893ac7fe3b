"""Aliases: names that move between an adapter's versions, with their whole history.

Owns moving, splitting and reading them, and keeps the route that they are to be served by. An alias only ever names versions
that were complete when it moved. Does not own the choice between the versions of a split, nor what serving makes of a route,
nor what happens when two changes meet (`alias_changes`).
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import get_args

from adapter_store import layout
from adapter_store.alias_changes import AliasChange, AliasChanges
from adapter_store.backends.protocol import Backend
from adapter_store.errors import InvalidRoute, InvalidSplit, NotFound, NothingBefore
from adapter_store.idempotency import Request
from adapter_store.manifest import MAX_TARGET_MS, AliasRecord, AliasShare, LatencyTarget, Route
from adapter_store.paging import MAX_SIZE, Page
from adapter_store.versions import Versions

DEFAULT_ALIAS = "prod"
MAX_SHARES = 10
"""Versions of a split alias."""
ROUTES: tuple[str, ...] = get_args(Route)
_HISTORY = 20  # records read at once on the way back


class Aliases:
    """Aliases of all tenants' adapters."""

    def __init__(self, backend: Backend, versions: Versions) -> None:
        self._backend, self._versions = backend, versions
        self._changes = AliasChanges(backend, versions)

    def get(self, tenant: str, adapter: str, alias: str) -> AliasRecord:
        """Returns where an alias points now. Raises NotFound when it was never set."""
        record = self._changes.log(tenant, adapter, alias).current()
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

        return self._changes.apply(AliasChange(tenant, adapter, alias, check, move, expected, by, reason, request))

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

        return self._changes.apply(AliasChange(tenant, adapter, alias, check, move, expected, by, reason, request))

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

        return self._changes.apply(
            AliasChange(tenant, adapter, alias, _was_set(adapter, alias), move, expected, by, reason, request)
        )

    def set_route(
        self,
        tenant: str,
        adapter: str,
        alias: str,
        route: str,
        *,
        first_token_ms: int = 0,
        between_tokens_ms: int = 0,
        expected: int | None = None,
        by: str,
        reason: str,
        request: Request | None = None,
    ) -> AliasRecord:
        """Says how an alias's requests are to be served, whatever it points at from now on. Nothing is written when that is so.

        Args:
            tenant, adapter, alias: the alias.
            route: one of ROUTES.
            first_token_ms, between_tokens_ms: see LatencyTarget; only with the route auto.
            expected, by, reason, request: as in `set`.

        Raises:
            InvalidRoute: no such route, or a latency target that cannot be.
            NotFound: it was never set, or is removed.
            VersionConflict: the current number is not `expected`.
        """
        if route not in ROUTES:
            raise InvalidRoute(f"there is no route {route[:40]!r}; take {', '.join(ROUTES[:-1])} or {ROUTES[-1]}")
        target = _target(route, first_token_ms, between_tokens_ms)

        def move(current: AliasRecord | None) -> dict[str, object] | None:
            if current is None or current.removed:
                raise _missing(adapter, alias)
            # With `restores`: else the next roll-back would return to the version that the last one left.
            kept = {"version": current.version, "split": current.split, "restores": current.restores}
            same = (current.route, current.target) == (route, target)
            return None if same else {**kept, "route": route, "target": target}

        return self._changes.apply(
            AliasChange(tenant, adapter, alias, _was_set(adapter, alias), move, expected, by, reason, request)
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

        return self._changes.apply(
            AliasChange(tenant, adapter, alias, _was_set(adapter, alias), move, expected, by, reason, request)
        )

    def history(self, tenant: str, adapter: str, alias: str, *, limit: int = MAX_SIZE) -> list[AliasRecord]:
        """Returns the alias's records, newest first, at most `limit`. Raises NotFound when it was never set."""
        records = self._changes.log(tenant, adapter, alias).history(limit=limit)
        if not records:
            raise _missing(adapter, alias)
        return records

    def at(self, tenant: str, adapter: str, alias: str, number: int) -> AliasRecord:
        """Returns the record of a number that the alias is known to have had. Raises CorruptRecord when it is gone."""
        return self._changes.log(tenant, adapter, alias).at(number)

    def history_page(
        self, tenant: str, adapter: str, alias: str, page_size: int = 0, page_token: str = ""
    ) -> Page[AliasRecord]:
        """Like `history`, in pages."""
        page = self._changes.log(tenant, adapter, alias).page(page_size, page_token)
        if not page.items and not page_token:
            raise _missing(adapter, alias)
        return page

    def list(self, tenant: str, adapter: str) -> tuple[AliasRecord, ...]:
        """Returns the current records of an adapter's aliases by name; at most 1000, empty for an unknown adapter."""
        names = self._backend.children(layout.aliases(tenant, adapter), limit=MAX_SIZE)
        records = (self._changes.log(tenant, adapter, name.removesuffix("/")).current() for name in names)
        return tuple(record for record in records if record is not None and not record.removed)

    def _before(self, current: AliasRecord) -> AliasRecord:
        """The newest record, older than where `current` points from, of another version that is still there."""
        log, before = (
            self._changes.log(current.tenant, current.adapter, current.alias),
            current.restores or current.number,
        )
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


def _was_set(adapter: str, alias: str) -> Callable[[AliasRecord | None], None]:
    """A check before `expected` is looked at: an alias that never was is not found, whatever number was expected."""

    def check(current: AliasRecord | None) -> None:
        if current is None:
            raise _missing(adapter, alias)

    return check


def _missing(adapter: str, alias: str) -> NotFound:
    return NotFound(f"no adapter {adapter} with an alias {alias}; `graft adapter list` shows what there is")


def _target(route: str, first_token_ms: int, between_tokens_ms: int) -> LatencyTarget:
    """Raises InvalidRoute."""
    for name, value in (("first_token_ms", first_token_ms), ("between_tokens_ms", between_tokens_ms)):
        if not 0 <= value <= MAX_TARGET_MS:
            raise InvalidRoute(f"{name} is {value}; take 0 (no target) to {MAX_TARGET_MS}")
        if value and route != "auto":
            raise InvalidRoute(f"{name} is a target for the route auto; {route} does not look at it")
    return LatencyTarget(first_token_ms=first_token_ms, between_tokens_ms=between_tokens_ms)
