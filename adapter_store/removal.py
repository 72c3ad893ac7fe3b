"""Deleting versions and adapters: hidden at once, bytes kept for a grace time, never what an alias points at.

Owns whether something may be deleted. Does not own the logs (`adapter_store.deletions`) nor the removal of bytes, which is
garbage collection's.
"""

from adapter_store import layout
from adapter_store.aliases import Aliases
from adapter_store.deletions import Deletions
from adapter_store.errors import InUse, NotFound
from adapter_store.manifest import DeletionRecord
from adapter_store.versions import Versions


class Removal:
    """Deletes what the other parts made."""

    def __init__(self, versions: Versions, aliases: Aliases, deletions: Deletions) -> None:
        self._versions, self._aliases, self._deletions = versions, aliases, deletions

    def delete_version(self, tenant: str, adapter: str, version: str, *, by: str, reason: str) -> DeletionRecord:
        """Hides a version. Publishing the same content brings it back.

        Raises:
            NotFound: no such version, or deleted already.
            InUse: an alias points at it.
        """
        self._versions.get(tenant, adapter, version)
        self._refuse_if_used(tenant, adapter, version)
        log = layout.deletion_log(tenant, adapter, version)
        record = self._deletions.hide(log, tenant, by=by, reason=reason)
        try:
            # An alias may have moved here since the look above; it found the version in its place, so it wins.
            self._refuse_if_used(tenant, adapter, version)
        except InUse:
            self._deletions.revive(log, tenant, by=by, reason="an alias moved to it meanwhile")
            raise
        return record

    def delete_adapter(self, tenant: str, adapter: str, *, by: str, reason: str) -> list[tuple[str, DeletionRecord]]:
        """Hides all versions of an adapter, and so the adapter. May be repeated after a failure. Returns them by digest.

        Raises:
            NotFound: no such adapter.
            InUse: it has aliases.
        """
        if aliases := self._aliases.list(tenant, adapter):
            names = ", ".join(record.alias for record in aliases)
            raise InUse(f"adapter {adapter} still has the aliases {names}; delete those first")
        records: list[tuple[str, DeletionRecord]] = []
        token = ""
        while True:
            page = self._versions.list(tenant, adapter, page_token=token)
            for digest in [item.version for item in page.items]:
                record = self.delete_version(tenant, adapter, digest, by=by, reason=reason)
                records.append((digest, record))
            if not (token := page.next_page_token):
                break
        if not records:
            raise NotFound(f"adapter {adapter} does not exist; list the tenant's adapters")
        return records

    def _refuse_if_used(self, tenant: str, adapter: str, version: str) -> None:
        names = [record.alias for record in self._aliases.list(tenant, adapter) if record.names(version)]
        if names:
            raise InUse(
                f"version {version[:12]} of adapter {adapter} is what the alias {', '.join(names)} points at; "
                "move the alias first"
            )
