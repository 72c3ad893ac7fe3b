"""`graft residency`, `prefetch`, `pin` and `evict`: which adapters the serving service holds, where, and why they stay."""

from datetime import UTC
from enum import StrEnum
from typing import Annotated

import typer

from graftwork.cli.merged import ago, merged_table
from graftwork.cli.session import session_of, table
from graftwork.v1 import serving_pb2 as pb

_COLUMNS = (
    "tenant", "adapter", "version", "tier", "slot", "disk", "memory", "in use", "uses", "last use", "fetch ms", "load ms", "slot ms", "pinned",
)  # fmt: skip
Tenant = Annotated[str | None, typer.Option("--tenant", "-t", envvar="GRAFT_TENANT", help="Whose.")]
Model = Annotated[str, typer.Argument(help="adapter, adapter:alias or adapter@version; the version that it means now.")]


class To(StrEnum):
    """Where to fetch to."""

    DISK = "disk"
    HOST = "host"


def residency(context: typer.Context) -> None:
    """List the adapter versions that the serving service holds, then those that are merged or are to be (with a `state`)."""
    session = session_of(context)
    with session.client() as client:
        held = client.held()
    rows = [*held.adapters, *held.merged]
    session.show(rows, table(_COLUMNS, [_row(item) for item in held.adapters]))
    if held.merged and not session.as_json:
        session.show_table(merged_table(list(held.merged)))


def prefetch(
    context: typer.Context,
    model: Model,
    to: Annotated[To, typer.Option(help="Local disk, or host memory too.")] = To.HOST,
    tenant: Tenant = None,
) -> None:
    """Bring an adapter version in before anybody asks for it."""
    session = session_of(context)
    tier = pb.TIER_DISK if to is To.DISK else pb.TIER_HOST
    with session.client() as client:
        row = client.prefetch(session.tenant(tenant), model, tier)
    session.show(row, table(_COLUMNS, [_row(row)]))


def pin(
    context: typer.Context,
    model: Model,
    off: Annotated[bool, typer.Option("--off", help="Let it be evicted again.")] = False,
    tenant: Tenant = None,
) -> None:
    """Keep an adapter version in host memory until the service ends, however little it is used."""
    session = session_of(context)
    with session.client() as client:
        row = client.pin(session.tenant(tenant), model, unpin=off)
    session.show(row, table(_COLUMNS, [_row(row)]))


def evict(
    context: typer.Context,
    adapter: str,
    version: Annotated[str, typer.Argument(help="The version's digest, from `graft residency --json`.")],
    tenant: Tenant = None,
) -> None:
    """Drop an adapter version from the engine and from disk; the store keeps it."""
    session = session_of(context)
    owner = session.tenant(tenant)
    with session.client() as client:
        full = [
            v.version
            for v in client.residency()
            if (v.tenant, v.adapter) == (owner, adapter) and v.version.startswith(version)
        ]
        answer = client.evict(owner, adapter, full[0] if len(full) == 1 else version)
    session.show(answer, f"evicted; {answer.freed_disk_bytes} bytes freed on disk")


def _row(item: pb.Residency) -> list[object]:
    used = item.HasField("last_use_time")
    return [
        item.tenant,
        item.adapter,
        item.version[:12],
        pb.Tier.Name(item.tier).removeprefix("TIER_").lower(),
        item.slot if item.HasField("slot") else "",
        item.disk_bytes,
        item.host_bytes,
        item.users,
        item.uses,
        ago(item.last_use_time.ToDatetime(UTC)) if used else "never",
        f"{item.disk_load_ms:.0f}",
        f"{item.host_load_ms:.0f}",
        f"{item.device_load_ms:.1f}",
        "yes" if item.pinned else "",
    ]
