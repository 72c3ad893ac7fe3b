"""The audit log: results, and the calls that give them."""

from dataclasses import dataclass
from datetime import UTC, datetime

from graftwork.sdk.calls import Api, Listing
from graftwork.sdk.reading import read_fields, read_time
from graftwork.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class AuditChange:
    """One thing that became another; empty is 'nothing' on either side."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A call that changed something, took something out, or was refused.

    Attributes:
        id: of the entry. request_id: names the call in the service's log.
        at: when it was begun, by the service's clock (UTC). service: and the machine.
        actor: role, name where the key has one, and key id; or a job's name.
        peer: the address that it came from; empty for a tenant's key.
        action: the method, `SetAlias`. target: resource name.
        tenant: an id, whose that is; empty for nobody's.
        outcome: `ok`; the kind of error when it was refused or failed; `cancelled` or `unknown` when it may have been carried
            out or not; `damaged` when the entry cannot be read.
        changes: from what, to what; none: everything was as it was wanted, or the call was a repeat.
        reason: as the caller gave it.
    """

    id: str
    at: datetime | None
    service: str
    actor: str
    peer: str
    action: str
    target: str
    tenant: str
    outcome: str
    changes: tuple[AuditChange, ...]
    reason: str
    request_id: str

    @classmethod
    def of(cls, message: pb.AuditEntry) -> "AuditEntry":
        return cls(
            **read_fields(message, "id service actor peer action target outcome reason request_id"),
            at=read_time(message, "create_time"),
            tenant=message.tenant.removeprefix("tenants/"),
            changes=tuple(AuditChange(item.field, item.before, item.after) for item in message.changes),
        )


def list_entries(
    parent: str, *, action: str, actor: str, target: str, outcome: str, since: datetime | None
) -> Listing[AuditEntry]:
    def request(token: str) -> pb.ListAuditEntriesRequest:
        asked = pb.ListAuditEntriesRequest(
            parent=parent, page_token=token, action=action, actor=actor, target=target, outcome=outcome
        )
        if since is not None:
            asked.since.FromDatetime(since.astimezone(UTC))
        return asked

    return Listing(
        Api.REGISTRY, "ListAuditEntries", request, lambda page: [AuditEntry.of(item) for item in page.entries]
    )
