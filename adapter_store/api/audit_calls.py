"""RegistryService's calls about the audit log."""

import asyncio
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from typing import Any

from adapter_store.api import convert
from adapter_store.api.audit_trail import AuditTrail
from adapter_store.api.callers import own_tenant
from adapter_store.audit import AuditEntry
from adapter_store.store import AdapterStore
from graftwork.rpc.auth import current_principal
from graftwork.v1 import registry_pb2 as pb

_PROGRESS_SECONDS = 1.0
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

    async def VerifyAuditLog(
        self, request: pb.VerifyAuditLogRequest, context: Any
    ) -> AsyncIterator[pb.VerifyAuditLogResponse]:
        current_principal().require_overseer()
        if self._trail is not None:
            await to_thread(self._trail.flush, _FLUSH_SECONDS)
        seen = _Seen()
        head = self._trail.head if self._trail is not None else lambda: None
        looking = asyncio.create_task(to_thread(self._store.audit.verify, head, seen))
        looking.add_done_callback(lambda task: task.cancelled() or task.exception())  # the caller may have left by then
        try:
            while not (await asyncio.wait([looking], timeout=_PROGRESS_SECONDS))[0]:
                yield pb.VerifyAuditLogResponse(entries_read=seen.entries)
            yield pb.VerifyAuditLogResponse(report=convert.audit_report(await looking))
        finally:
            seen.left = True


class _CallerLeft(Exception):
    """Ends a look that nobody waits for."""


class _Seen:
    """How far a look has come, and whether somebody still waits for it."""

    def __init__(self) -> None:
        self.entries, self.left = 0, False

    def __call__(self, entries: int) -> None:
        self.entries = entries
        if self.left:
            raise _CallerLeft


def _filter(request: pb.ListAuditEntriesRequest) -> Callable[[AuditEntry], bool]:
    def matches(entry: AuditEntry) -> bool:
        return (
            request.action in ("", entry.action)
            and request.outcome in ("", entry.outcome)
            and request.actor in entry.actor
            and entry.target.startswith(request.target)
        )

    return matches
