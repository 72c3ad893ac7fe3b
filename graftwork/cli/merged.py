"""`graft promote` and `demote`: which versions run merged, in engines of their own."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from graftwork.cli.session import session_of, table
from graftwork.v1 import serving_pb2 as pb

_COLUMNS = (
    "tenant",
    "adapter",
    "version",
    "merged",
    "since",
    "bytes",
    "in use",
    "uses",
    "last use",
    "wanted by",
    "why",
)
Tenant = Annotated[str | None, typer.Option("--tenant", "-t", envvar="GRAFT_TENANT", help="Whose.")]
Model = Annotated[str, typer.Argument(help="adapter, adapter:alias or adapter@version; the version that it means now.")]


def promote(
    context: typer.Context,
    model: Model,
    wait: Annotated[bool, typer.Option(help="Return once it serves, or has failed.")] = True,
    tenant: Tenant = None,
) -> None:
    """Merge an adapter version and serve it by an engine of its own; its requests go through the adapter slots until then."""
    session = session_of(context)
    with session.client() as client:
        row = client.promote(session.tenant(tenant), model, wait=wait)
    session.show(row, merged_table([row]))
    if wait and row.state != pb.MERGED_STATE_SERVING:
        raise typer.Exit(1)


def demote(context: typer.Context, model: Model, tenant: Tenant = None) -> None:
    """End an adapter version's merged engine once its requests have finished; they go through the adapter slots again."""
    session = session_of(context)
    with session.client() as client:
        row = client.demote(session.tenant(tenant), model)
    session.show(row, merged_table([row]))


def merged_table(rows: list[pb.Merged]) -> Table:
    """A table of merged versions."""
    return table(_COLUMNS, [_row(row) for row in rows])


def _row(row: pb.Merged) -> list[object]:
    used = row.HasField("last_use_time")
    why = (row.why or row.promoted_because) + (f" (again in {row.retry_seconds:.0f} s)" if row.retry_seconds else "")
    return [
        row.tenant,
        row.adapter,
        row.version[:12],
        pb.MergedState.Name(row.state).removeprefix("MERGED_STATE_").lower(),
        ago(row.state_time.ToDatetime(UTC)),
        row.bytes,
        row.users,
        row.uses,
        ago(row.last_use_time.ToDatetime(UTC)) if used else "never",
        ", ".join(row.wanted_by),
        why,
    ]


def ago(when: datetime) -> str:
    """How long ago something was, in words."""
    seconds = max(0, round((datetime.now(UTC) - when).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
