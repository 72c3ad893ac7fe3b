"""Aliases: names that move between an adapter's versions, with their whole history.

Owns moving and reading them. An alias only ever points at a version that was complete when it moved. Does not own
routing by weights or policies of serving.
"""

from datetime import UTC, datetime

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.errors import NotFound, VersionConflict
from adapter_store.manifest import AdapterRecord, AliasRecord
from adapter_store.names import parse_id
from adapter_store.numbered_log import NumberedLog
from adapter_store.paging import MAX_SIZE, Page, read_page
from adapter_store.versions import Versions

DEFAULT_ALIAS = "prod"
_TRIES = 20
_MAX_REASON = 1000


class Aliases:
    """Aliases of all tenants' adapters."""

    def __init__(self, backend: Backend, versions: Versions) -> None:
        self._backend, self._versions = backend, versions

    def get(self, tenant: str, adapter: str, alias: str) -> AliasRecord:
        """Returns where an alias points now. Raises NotFound when it was never set."""
        record = self._log(tenant, adapter, alias).current()
        if record is None:
            raise NotFound(f"no adapter {adapter} with an alias {alias}; `graft adapter list` shows what there is")
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

        Raises:
            NotFound: no such version.
            VersionConflict: the current number is not `expected`.
        """
        log = self._log(tenant, adapter, alias)
        self._versions.get(tenant, adapter, version)
        for _ in range(_TRIES):
            current = log.current()
            number = current.number if current else 0
            if expected is not None and number != expected:
                raise VersionConflict(
                    f"alias {alias} of adapter {adapter} is at number {number}, not {expected}; read it and try again",
                    number,
                )
            if current and current.version == version:
                return current
            record = AliasRecord(
                number=number + 1,
                tenant=tenant,
                adapter=adapter,
                alias=alias,
                version=version,
                by=by,
                reason=reason[:_MAX_REASON],
                at=datetime.now(UTC),
            )
            try:
                return log.append(record)
            except VersionConflict as conflict:
                lost = conflict
                if expected is not None:
                    break
        raise lost

    def history(self, tenant: str, adapter: str, alias: str, *, limit: int = MAX_SIZE) -> list[AliasRecord]:
        """Returns the alias's records, newest first, at most `limit`. Raises NotFound when it was never set."""
        records = self._log(tenant, adapter, alias).history(limit=limit)
        if not records:
            raise NotFound(f"adapter {adapter} has no alias {alias}")
        return records

    def list(self, tenant: str, adapter: str) -> tuple[AliasRecord, ...]:
        """Returns the current records of an adapter's aliases by name; at most 1000, empty for an unknown adapter."""
        names = self._backend.children(layout.aliases(tenant, adapter), limit=MAX_SIZE)
        records = (self._log(tenant, adapter, name.removesuffix("/")).current() for name in names)
        return tuple(record for record in records if record is not None)

    def _log(self, tenant: str, adapter: str, alias: str) -> NumberedLog[AliasRecord]:
        prefix = layout.alias_log(tenant, adapter, alias)
        return NumberedLog(self._backend, prefix, AliasRecord, f"alias {alias} of adapter {adapter}")


class Adapters:
    """A tenant's adapters: they exist by having a version."""

    def __init__(self, backend: Backend, aliases: Aliases) -> None:
        self._backend, self._aliases = backend, aliases

    def get(self, tenant: str, adapter: str) -> AdapterRecord:
        """Returns an adapter with its aliases. Raises NotFound when it has no version."""
        if not self._backend.children(layout.versions(tenant, adapter), limit=1):
            raise NotFound(f"adapter {adapter} does not exist; list the tenant's adapters")
        return self._record(tenant, adapter)

    def list(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[AdapterRecord]:
        """Returns a tenant's adapters in the order of their ids."""
        return read_page(
            self._backend,
            layout.adapters(tenant),
            page_size,
            page_token,
            lambda name: self._record(tenant, parse_id("adapter", name.removesuffix("/"))),
        )

    def _record(self, tenant: str, adapter: str) -> AdapterRecord:
        return AdapterRecord(tenant=tenant, adapter=adapter, aliases=self._aliases.list(tenant, adapter))
