"""`graft residency` and `graft evict`: which adapters the serving service holds, and where."""

from typing import Annotated

import typer

from graftwork.cli.session import session_of, table
from graftwork.v1 import serving_pb2 as pb


def residency(context: typer.Context) -> None:
    """List the adapter versions that the serving service holds."""
    session = session_of(context)
    with session.client() as client:
        held = client.residency()
    rows = [
        [
            item.tenant,
            item.adapter,
            item.version[:12],
            pb.Tier.Name(item.tier).removeprefix("TIER_").lower(),
            item.disk_bytes,
            item.users,
            item.uses,
            f"{item.load_ms:.0f}",
        ]
        for item in held
    ]
    session.show(held, table(("tenant", "adapter", "version", "tier", "bytes", "in use", "uses", "load ms"), rows))


def evict(
    context: typer.Context,
    adapter: str,
    version: Annotated[str, typer.Argument(help="The version's digest, from `graft residency --json`.")],
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", envvar="GRAFT_TENANT", help="Whose.")] = None,
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
