"""`client.audit` of the asynchronous client."""

from collections.abc import AsyncIterator
from datetime import datetime

from graftwork.sdk import audit as calls
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.audit import AuditEntry
from graftwork.sdk.names import Scope


class AsyncAudit:
    """See `Audit`."""

    def __init__(self, wire: AsyncWire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    def list(
        self, *, action: str = "", actor: str = "", target: str = "", outcome: str = "", since: datetime | None = None
    ) -> AsyncIterator[AuditEntry]:
        """See `Audit.list`."""
        parent = self._scope.parent if self._scope.tenant else ""
        return self._wire.list(
            calls.list_entries(parent, action=action, actor=actor, target=target, outcome=outcome, since=since)
        )
