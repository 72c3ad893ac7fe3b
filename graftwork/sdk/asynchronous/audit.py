"""`client.audit` of the asynchronous client."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime

from graftwork.client.errors import RemoteUnavailable
from graftwork.sdk import audit as calls
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.audit import AuditEntry, AuditReport, Verifying
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

    async def verify(
        self, *, progress: Callable[[int], None] | None = None, timeout: float | None = None
    ) -> AuditReport:
        """See `Audit.verify`."""
        verifying = Verifying(progress)
        for look in calls.verify_log(timeout):
            try:
                async with aclosing(self._wire.stream(look)) as messages:
                    async for message in messages:
                        verifying.take(message)
            except RemoteUnavailable as error:
                verifying.missed(error)
        return verifying.report()
