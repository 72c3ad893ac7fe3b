"""`client.audit`: who changed what, from what, to what."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime

from graftwork.client.errors import RemoteUnavailable
from graftwork.sdk import audit as calls
from graftwork.sdk.audit import AuditEntry, AuditReport, Verifying
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

    def verify(self, *, progress: Callable[[int], None] | None = None, timeout: float | None = None) -> AuditReport:
        """Reads the whole log and names the entries that were changed, removed, moved or added since they were written.

        Both services are asked, since each knows where its own entries end; one that is away is left out, and its chain is
        vouched for by nobody. Operators and viewers only.

        Args:
            progress: called with the entries that were read so far, by each service anew.
            timeout: seconds, of each service; None: an hour.

        Raises:
            RemoteForbidden: a tenant's key. RemoteUnavailable: neither service is up.
        """
        verifying = Verifying(progress)
        for look in calls.verify_log(timeout):
            try:
                with closing(self._wire.stream(look)) as messages:
                    for message in messages:
                        verifying.take(message)
            except RemoteUnavailable as error:
                verifying.missed(error)
        return verifying.report()
