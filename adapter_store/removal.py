"""Deleting versions and adapters: hidden at once, bytes kept for a grace time, never what an alias points at.

Owns whether something may be deleted. Does not own the logs (`adapter_store.deletions`) nor the removal of bytes, which is
garbage collection's.
"""

from datetime import datetime

from adapter_store import layout
from adapter_store.aliases import Aliases
from adapter_store.deletions import Deletions
from adapter_store.errors import InUse, NotFound
from adapter_store.idempotency import Request
from adapter_store.manifest import DeletionRecord
from adapter_store.names import DatasetName, VersionName
from adapter_store.versions import Versions


class Removal:
    """Deletes what the other parts made."""

    def __init__(self, versions: Versions, aliases: Aliases, deletions: Deletions) -> None:
        self._versions, self._aliases, self._deletions = versions, aliases, deletions

    def revived_at(self, name: VersionName | DatasetName) -> datetime | None:
        """When a version or data set was last taken back from a deletion; None when it never was, or is deleted now."""
        if isinstance(name, DatasetName):
            return self._deletions.revived_at(layout.dataset_deletion_log(name.tenant, name.dataset))
        return self._deletions.revived_at(layout.deletion_log(name.tenant, name.adapter, name.version))

    def delete_version(
        self, tenant: str, adapter: str, version: str, *, by: str, reason: str, request: Request | None = None
    ) -> DeletionRecord:
        """Hides a version. Publishing the same content brings it back.

        Args:
            tenant, adapter, version: what to hide.
            by: who deletes it.
            reason: why.
            request: when it deleted this version before, that record is the answer.

        Raises:
            NotFound: no such version, or deleted already.
            InUse: an alias points at it.
        """
        log = layout.deletion_log(tenant, adapter, version)
        done = self._deletions.made(log, request)
        if done and not self._deletions.is_hidden(log):
            return done  # published again since
        if done is None:
            self._versions.get(tenant, adapter, version)
            self._refuse_if_used(tenant, adapter, version)
        record = self._deletions.hide(log, tenant, by=by, reason=reason, request=request)
        try:
            # An alias may have moved here since the look above; it found the version in its place, so it wins.
            self._refuse_if_used(tenant, adapter, version)
        except InUse:
            self._deletions.revive(log, tenant, by=by, reason="an alias moved to it meanwhile", undone=request)
            raise
        return record

    def delete_adapter(
        self, tenant: str, adapter: str, *, by: str, reason: str, request: Request | None = None
    ) -> list[tuple[str, DeletionRecord]]:
        """Hides all versions of an adapter, and so the adapter. May be repeated after a failure. Returns them by digest.

        Args:
            tenant, adapter: what to hide.
            by: who deletes it.
            reason: why.
            request: when it came before, only what it left undone is done: versions from after its beginning stay.

        Raises:
            NotFound: no such adapter.
            InUse: it has aliases.
        """
        done = self._deletions.made_below(layout.deletions(tenant, adapter), request)
        began = min((record.at for record in done.values()), default=None)
        aliases = self._aliases.list(tenant, adapter)
        if aliases and not done:
            names = ", ".join(record.alias for record in aliases)
            raise InUse(f"adapter {adapter} still has the aliases {names}; delete those first")
        token = ""
        while True:
            page = self._versions.list(tenant, adapter, page_token=token)
            for item in page.items:
                if item.version not in done and (began is None or item.created_at < began):
                    done[item.version] = self.delete_version(
                        tenant, adapter, item.version, by=by, reason=reason, request=request
                    )
            if not (token := page.next_page_token):
                break
        if not done:
            raise NotFound(f"adapter {adapter} does not exist; `graft adapter list` shows the tenant's")
        return sorted(done.items())

    def _refuse_if_used(self, tenant: str, adapter: str, version: str) -> None:
        names = [record.alias for record in self._aliases.list(tenant, adapter) if record.names(version)]
        if names:
            raise InUse(
                f"version {version[:12]} of adapter {adapter} is what the alias {', '.join(names)} points at; "
                "move the alias first"
            )
