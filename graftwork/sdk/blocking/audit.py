"""`client.audit`: who changed what, from what, to what."""

from collections.abc import Iterator
from datetime import datetime

from graftwork.sdk import audit as calls
from graftwork.sdk.audit import AuditEntry
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.names import Scope


class Audit:
    """Calls about the audit log: every call that changed something or took something out, and those that were refused."""

    def __init__(self, wire: Wire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    def list(
        self, *, action: str = "", actor: str = "", target: str = "", outcome: str = "", since: datetime | None = None
    ) -> Iterator[AuditEntry]:
        """Yields entries, newest first: what concerns the client's tenant; everything for an operator's client without one.

        Args:
            action: only this method, as `SetAlias`.
            actor: only actors whose text holds this.
            target: only resource names that begin so.
            outcome: only this outcome, as `ok` or `forbidden`.
            since: no older ones; a time without a zone is of this machine's.
        """
        parent = self._scope.parent if self._scope.tenant else ""
        return self._wire.list(
            calls.list_entries(parent, action=action, actor=actor, target=target, outcome=outcome, since=since)
        )
