"""RegistryService's call about the audit log."""

from asyncio import to_thread
from collections.abc import Callable
from datetime import UTC
from typing import Any

from adapter_store.api import convert
from adapter_store.api.audit_trail import AuditTrail
from adapter_store.api.callers import own_tenant
from adapter_store.audit import AuditEntry
from adapter_store.store import AdapterStore
from graftwork.rpc.auth import current_principal
from graftwork.v1 import registry_pb2 as pb

_FLUSH_SECONDS = 2.0  # for what this process has just carried out, so that who changes something finds it here


class AuditCalls:
    """Mixed into `RegistryServicer`, which sets what is declared here."""

    _store: AdapterStore
    _trail: AuditTrail | None

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Any) -> pb.ListAuditEntriesResponse:
        caller = current_principal()
        tenant = "" if caller.oversees and not request.parent else own_tenant(request.parent)
        if self._trail is not None:
            await to_thread(self._trail.flush, _FLUSH_SECONDS)
        page = await to_thread(
            self._store.audit.page,
            *(request.page_size, request.page_token),
            tenant=tenant,
            matches=_filter(request),
            since=request.since.ToDatetime(UTC) if request.HasField("since") else None,
        )
        entries = [convert.audit_entry(entry, with_peer=caller.oversees) for entry in page.items]
        return pb.ListAuditEntriesResponse(entries=entries, next_page_token=page.next_page_token)


def _filter(request: pb.ListAuditEntriesRequest) -> Callable[[AuditEntry], bool]:
    def matches(entry: AuditEntry) -> bool:
        return (
            request.action in ("", entry.action)
            and request.outcome in ("", entry.outcome)
            and request.actor in entry.actor
            and entry.target.startswith(request.target)
        )

    return matches
