"""The audit log: results, and the calls that give them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from graftwork.client.audits import together
from graftwork.client.errors import RemoteInternal, RemoteUnavailable
from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Listing, Stream
from graftwork.sdk.reading import read_enum, read_fields, read_time
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
        writer, number: whose chain it is in, and its place there from 1; empty and 0: in none.
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
    writer: str
    number: int

    @classmethod
    def of(cls, message: pb.AuditEntry) -> "AuditEntry":
        return cls(
            **read_fields(message, "id service actor peer action target outcome reason request_id writer number"),
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


class AuditProblemKind(StrEnum):
    """What is wrong with an entry of the audit log."""

    UNSPECIFIED = "unspecified"
    CHANGED = "changed"
    REMOVED = "removed"
    MOVED = "moved"
    """Lies in another entry's place."""
    ADDED = "added"
    """Its writer has not written it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditProblem:
    """An entry that is not as it was written.

    Attributes:
        kind: what happened. text: for people.
        object: where it lies below `v1/audit/` of the store; of a removed one empty.
        writer, number: whose chain, and the place in it; empty and 0: not known.
        last_number: the same, or the last of a row of removed ones.
    """

    kind: AuditProblemKind
    object: str
    writer: str
    number: int
    last_number: int
    text: str

    @classmethod
    def of(cls, message: pb.AuditProblem) -> "AuditProblem":
        kind = read_enum(AuditProblemKind, pb.AuditProblem.Kind, message.kind, "KIND_")
        return cls(kind=kind, **read_fields(message, "object writer number last_number text"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditChain:
    """One writer's entries.

    Attributes:
        writer: an id of its own. service: and the machine, as its newest entry says.
        number: of that entry. at: when that was begun (UTC).
        vouched: its writer was asked, and knows that none is missing at the end.
    """

    writer: str
    service: str
    number: int
    at: datetime | None
    vouched: bool

    @classmethod
    def of(cls, message: pb.AuditChain) -> "AuditChain":
        return cls(**read_fields(message, "writer service number vouched"), at=read_time(message, "create_time"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What a look through the whole audit log found.

    Attributes:
        entries: that there are. unchained: among them, that are in no chain: of `graft store`, or older than chains.
        chains: the one with the newest entry first. problems: what was changed, removed, moved or added.
    """

    entries: int
    unchained: int
    chains: tuple[AuditChain, ...]
    problems: tuple[AuditProblem, ...]

    @classmethod
    def of(cls, message: pb.AuditReport) -> "AuditReport":
        return cls(
            entries=message.entries,
            unchained=message.unchained,
            chains=tuple(map(AuditChain.of, message.chains)),
            problems=tuple(map(AuditProblem.of, message.problems)),
        )


def verify_log(timeout: float | None) -> tuple[Stream, Stream]:
    """The look of each service: one vouches for its own chain only."""

    def of(api: Api) -> Stream:
        return Stream(api, "VerifyAuditLog", pb.VerifyAuditLogRequest(), timeout or FILE_TIMEOUT_S)

    return of(Api.REGISTRY), of(Api.REGISTRY_OF_SERVING)


class Verifying:
    """Takes what the looks stream.

    Args:
        progress: called with the entries that were read so far, by each service anew.
    """

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._reports: list[pb.AuditReport] = []
        self._away: RemoteUnavailable | None = None

    def take(self, message: Any) -> None:
        """Takes the next message."""
        if message.WhichOneof("part") == "report":
            self._reports.append(message.report)
        elif self._progress:
            self._progress(message.entries_read)

    def missed(self, error: RemoteUnavailable) -> None:
        """Notes that a service is away; the chain that it writes is then vouched for by nobody."""
        self._away = error

    def report(self) -> AuditReport:
        """Returns what was found. Raises RemoteUnavailable when no service was there."""
        if not self._reports:
            raise self._away or RemoteInternal("the audit log was looked through without a report; try again")
        return AuditReport.of(together(self._reports))
