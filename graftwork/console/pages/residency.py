"""Residency: which adapter version is in which tier and in which slot of the device, and which run merged; for operators.

Owns the map and the few changes that can be made on it: pin, evict, demote. Does not own promoting (`alias_moves.py`, the store's
aliases), nor what is brought in when (the serving service).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from graftwork.console.forms import Confirmation, confirm, go_to
from graftwork.console.pages.adapters import owners
from graftwork.console.rendering import render, short, size
from graftwork.console.visitor import Operating, SignedIn
from graftwork.v1 import serving_pb2 as pb

router = APIRouter()
MOST_ROWS = 200
"""Of one table; a tenant's alone are seen by choosing it."""
_TIERS = (("store", pb.TIER_STORE), ("disk", pb.TIER_DISK), ("memory", pb.TIER_HOST), ("slot", pb.TIER_DEVICE))


@dataclass(frozen=True, slots=True)
class Place:
    """A tier on an adapter's way to the device.

    Attributes:
        name: of the tier.
        there: the adapter is in it.
        fastest: it is found there.
    """

    name: str
    there: bool
    fastest: bool


@router.get("/residency")
def residency(request: Request, visitor: SignedIn, tenant: str = "") -> Response:
    visitor.require_oversight()
    held, info = visitor.client.held(), visitor.client.serving_info()
    shown = [row for row in held.adapters if tenant in ("", row.tenant)]
    shown.sort(key=lambda row: (-row.tier, -row.last_use_time.ToNanoseconds(), row.tenant, row.adapter))
    return render(
        request,
        visitor,
        "residency.html",
        tenants=owners(visitor),
        chosen=tenant,
        slots=slots_of(held.adapters, info.max_loras),
        max_rank=info.max_lora_rank,
        adapters=shown[:MOST_ROWS],
        left_out=max(0, len(shown) - MOST_ROWS),
        merged=[row for row in held.merged if tenant in ("", row.tenant)],
        merged_state=merged_state,
        counts={name: sum(row.tier >= tier for row in held.adapters) for name, tier in _TIERS},
        disk_bytes=sum(row.disk_bytes for row in held.adapters),
        host_bytes=sum(row.host_bytes for row in held.adapters),
        users=sum(row.users for row in held.adapters) + sum(row.users for row in held.merged),
        way=way,
    )


@router.post("/residency/pin")
def pin(
    visitor: Operating,
    tenant: Annotated[str, Form()],
    model: Annotated[str, Form()],
    off: Annotated[str, Form()] = "",
    chosen: Annotated[str, Form()] = "",
) -> Response:
    done = f"{tenant}/{_shown(model)} " + (
        "may be evicted again." if off else "stays in host memory until it is unpinned, evicted, or the service ends."
    )
    visitor.attempt(done, lambda: visitor.client.pin(tenant, model, unpin=bool(off)))
    return _back(chosen)


@router.get("/residency/evict")
def ask_evict(request: Request, visitor: Operating, tenant: str, adapter: str, version: str) -> Response:
    found = [
        row
        for row in visitor.client.residency()
        if (row.tenant, row.adapter, row.version) == (tenant, adapter, version)
    ]
    bytes_there = sum(row.disk_bytes + row.host_bytes for row in found)
    asked = Confirmation(
        title="Evict this version?",
        facts=[
            ("Adapter", f"{tenant}/{adapter}"),
            ("Version", version),
            ("Gives back", f"its slot, and {size(bytes_there)} of disk and host memory"),
            ("Then", "the next request for it fetches it from the store again; the store keeps it"),
        ],
        button="Evict",
        back="/residency",
        danger=True,
    )
    return confirm(request, visitor, asked)


@router.post("/residency/evict")
def evict(visitor: Operating, tenant: str, adapter: str, version: str) -> Response:
    freed = visitor.attempt("", lambda: visitor.client.evict(tenant, adapter, version))
    if freed is not None:
        visitor.say(
            f"{tenant}/{adapter} @ {short(version)} was evicted; {size(freed.freed_disk_bytes)} of disk are free again."
        )
    return _back("")


@router.get("/residency/demote")
def ask_demote(request: Request, visitor: Operating, tenant: str, model: str) -> Response:
    asked = Confirmation(
        title="End this merged engine?",
        facts=[
            ("Version", f"{tenant}/{_shown(model)}"),
            (
                "Then",
                "requests under way finish on it, new ones go through an adapter slot; it stays off until it is promoted again",
            ),
        ],
        button="End it",
        back="/residency",
        danger=True,
    )
    return confirm(request, visitor, asked)


@router.post("/residency/demote")
def demote(visitor: Operating, tenant: str, model: str) -> Response:
    visitor.attempt(
        f"{tenant}/{_shown(model)} goes back to the adapter slots.", lambda: visitor.client.demote(tenant, model)
    )
    return _back("")


def slots_of(adapters: Sequence[pb.Residency], count: int) -> list[pb.Residency | None]:
    """What is in each slot of the device; None in a free one."""
    slots: list[pb.Residency | None] = [None] * count
    for row in adapters:
        if row.HasField("slot") and row.slot < count:
            slots[row.slot] = row
    return slots


def way(row: pb.Residency) -> list[Place]:
    """The tiers from the store to the device, and in which of them an adapter is. The store has every one."""
    there = {
        pb.TIER_STORE: True,
        pb.TIER_DISK: row.disk_bytes > 0,
        pb.TIER_HOST: row.host_bytes > 0,
        pb.TIER_DEVICE: row.tier == pb.TIER_DEVICE,
    }
    return [Place(name, there[tier], tier == row.tier) for name, tier in _TIERS]


def merged_state(row: pb.Merged) -> str:
    """`serving` for MERGED_STATE_SERVING."""
    return pb.MergedState.Name(row.state).removeprefix("MERGED_STATE_").lower()


def _shown(model: str) -> str:
    adapter, _, version = model.partition("@")
    return f"{adapter} @ {short(version)}" if version else adapter


def _back(chosen: str) -> Response:
    return go_to(f"/residency?tenant={chosen}" if chosen else "/residency")
