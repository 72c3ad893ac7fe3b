"""What the serving service runs and holds: results, and the calls that give them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from graftwork.sdk.calls import CALL_TIMEOUT_S, FILE_TIMEOUT_S, Api, Call
from graftwork.sdk.reading import read_enum, read_time
from graftwork.v1 import serving_pb2 as pb


class Tier(StrEnum):
    """Where an adapter is held, slowest first."""

    UNSPECIFIED = "unspecified"
    STORE = "store"
    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class ServingInfo:
    """The service.

    Attributes:
        version: of Graftwork. base_model, base_digest: the backbone.
        max_loras: adapters that run in one batch. max_lora_rank: largest rank. max_model_len: tokens of prompt and answer.
        ready: takes requests. model: loading, ready, dead or stopped. store: reachable or away. draining: being stopped.
    """

    version: str
    base_model: str
    base_digest: str
    max_loras: int
    max_lora_rank: int
    max_model_len: int
    ready: bool
    model: str
    store: str
    draining: bool

    @classmethod
    def of(cls, message: pb.ServingInfo) -> "ServingInfo":
        return cls(
            version=message.version,
            base_model=message.base_model,
            base_digest=message.base_digest,
            max_loras=message.max_loras,
            max_lora_rank=message.max_lora_rank,
            max_model_len=message.max_model_len,
            ready=message.ready,
            model=message.model.state,
            store=message.store.state,
            draining=message.draining.state == "yes",
        )


@dataclass(frozen=True, slots=True)
class Residency:
    """A version that the service holds.

    Attributes:
        tenant, adapter, version: which; `version` is its digest.
        tier: the fastest that holds it. pinned: stays in host memory.
        users: requests in flight. uses: requests so far. last_used: UTC.
        disk_bytes, host_bytes: what it takes; 0 where it is not.
        disk_load_ms: the last fetch from the store, verified; 0.0 for one that an earlier run left.
        host_load_ms: the last time it was verified, read and packed into host memory.
        device_load_ms: the last time it was brought into a slot.
        slot: of the device, from 0; None for one that is in none.
    """

    tenant: str
    adapter: str
    version: str
    tier: Tier
    pinned: bool
    users: int
    uses: int
    last_used: datetime | None
    disk_bytes: int
    host_bytes: int
    disk_load_ms: float
    host_load_ms: float
    device_load_ms: float
    slot: int | None

    @classmethod
    def of(cls, message: pb.Residency) -> "Residency":
        return cls(
            tenant=message.tenant,
            adapter=message.adapter,
            version=message.version,
            tier=read_enum(Tier, pb.Tier, message.tier, "TIER_"),
            pinned=message.pinned,
            users=message.users,
            uses=message.uses,
            last_used=read_time(message, "last_use_time"),
            disk_bytes=message.disk_bytes,
            host_bytes=message.host_bytes,
            disk_load_ms=message.disk_load_ms,
            host_load_ms=message.host_load_ms,
            device_load_ms=message.device_load_ms,
            slot=message.slot if message.HasField("slot") else None,
        )


@dataclass(frozen=True, slots=True)
class Drained:
    """What a node said of being taken out of traffic.

    Attributes:
        draining: it takes no new requests.
        running: requests that are under way still.
    """

    draining: bool
    running: int

    @classmethod
    def of(cls, message: pb.DrainResponse) -> "Drained":
        return cls(message.draining, message.running)


def drain(wait_seconds: float, resume: bool = False) -> Call[Drained]:
    request = pb.DrainRequest(resume=resume, wait_seconds=wait_seconds)
    longer = wait_seconds if 0 < wait_seconds <= FILE_TIMEOUT_S else 0.0  # else the service says what is wrong with it
    return Call(Api.SERVING, "Drain", request, Drained.of, CALL_TIMEOUT_S + longer)


def get_info() -> Call[ServingInfo]:
    return Call(Api.SERVING, "GetServingInfo", pb.GetServingInfoRequest(), ServingInfo.of)


def list_residency() -> Call[tuple[Residency, ...]]:
    return Call(
        Api.SERVING, "ListResidency", pb.ListResidencyRequest(), lambda got: tuple(map(Residency.of, got.adapters))
    )


def prefetch(tenant: str, model: str, tier: Tier) -> Call[Residency]:
    request = pb.PrefetchRequest(tenant=tenant, model=model, tier=f"TIER_{tier.name}")
    return Call(Api.SERVING, "Prefetch", request, Residency.of, FILE_TIMEOUT_S)


def pin(tenant: str, model: str, unpin: bool) -> Call[Residency]:
    request = pb.PinRequest(tenant=tenant, model=model, unpin=unpin)
    return Call(Api.SERVING, "Pin", request, Residency.of, FILE_TIMEOUT_S)


def evict(tenant: str, adapter: str, version: str) -> Call[int]:
    """Not repeatable: a repeat of one that was carried out would say that there is nothing to evict."""
    request = pb.EvictRequest(tenant=tenant, adapter=adapter, version=version)
    return Call(Api.SERVING, "Evict", request, lambda got: got.freed_disk_bytes, repeatable=False)
