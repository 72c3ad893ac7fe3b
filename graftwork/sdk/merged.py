"""Versions that run merged, in engines of their own: results, and the calls that give them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Call
from graftwork.sdk.reading import read_enum, read_fields, read_time
from graftwork.v1 import serving_pb2 as pb


class MergedState(StrEnum):
    """How far a merged version has come."""

    UNSPECIFIED = "unspecified"
    WANTED = "wanted"
    """Waits for its turn, for room, or after a failure."""
    MERGING = "merging"
    STARTING = "starting"
    PROBING = "probing"
    """Compared with the adapter in its slot."""
    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"
    """Demoted, and remembered because an alias wants it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedVersion:
    """A version that runs merged, or is to.

    Attributes:
        tenant, adapter, version: which; `version` is its digest.
        state, since: how far it is, and since when (UTC).
        bytes: of the budget; 0 while it is not known.
        users, uses: requests in flight, and so far. last_used: UTC.
        wanted_by: `operator`, or `adapter:alias`.
        why: why it does not serve, or what ended it last. failures: since it last served well.
        retry_seconds: until it is tried again. build_seconds: from the beginning of its merge to its first request.
    """

    tenant: str
    adapter: str
    version: str
    state: MergedState
    since: datetime | None
    bytes: int
    users: int
    uses: int
    last_used: datetime | None
    wanted_by: tuple[str, ...]
    why: str
    failures: int
    retry_seconds: float
    build_seconds: float

    @classmethod
    def of(cls, message: pb.Merged) -> "MergedVersion":
        return cls(
            **read_fields(message, "tenant adapter version bytes users uses why failures retry_seconds build_seconds"),
            state=read_enum(MergedState, pb.MergedState, message.state, "MERGED_STATE_"),
            since=read_time(message, "state_time"),
            last_used=read_time(message, "last_use_time"),
            wanted_by=tuple(message.wanted_by),
        )


def list_merged() -> Call[tuple[MergedVersion, ...]]:
    return Call(
        Api.SERVING, "ListResidency", pb.ListResidencyRequest(), lambda got: tuple(map(MergedVersion.of, got.merged))
    )


def promote(tenant: str, model: str, wait: bool) -> Call[MergedVersion]:
    request = pb.PromoteRequest(tenant=tenant, model=model, wait=wait)
    return Call(Api.SERVING, "Promote", request, MergedVersion.of, FILE_TIMEOUT_S if wait else None)


def demote(tenant: str, model: str) -> Call[MergedVersion]:
    """Not repeatable: somebody may have promoted it again between two tries."""
    request = pb.DemoteRequest(tenant=tenant, model=model)
    return Call(Api.SERVING, "Demote", request, MergedVersion.of, repeatable=False)
