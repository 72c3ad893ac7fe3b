"""`graft alias policy`: how an alias's requests are served."""

from typing import Annotated

import typer

from graftwork.cli.adapter_aliases import Reason
from graftwork.cli.adapters import Tenant, target
from graftwork.cli.session import session_of
from graftwork.client.client import Client
from graftwork.client.errors import RemoteForbidden, RemoteUnavailable
from graftwork.v1 import registry_pb2
from graftwork.v1 import serving_pb2 as pb

app = typer.Typer(
    no_args_is_help=True, help="How aliases are served; `graft adapter promote` and its like say where they point."
)


@app.callback()
def aliases() -> None:
    """How aliases are served; `graft adapter promote` and its like say where they point."""


@app.command()
def policy(
    context: typer.Context,
    adapter: str,
    alias: str,
    route: Annotated[
        str | None,
        typer.Option(
            help="swapped: the adapter beside the shared backbone. merged: an engine of its own, as soon as one is ready. "
            "auto: so while its traffic deserves it. Without this: show the policy.",
            show_default=False,
        ),
    ] = None,
    first_token_ms: Annotated[
        int,
        typer.Option(help="With auto: merged only while 5 in 100 first tokens take longer. 0: no target.", min=0),
    ] = 0,
    between_tokens_ms: Annotated[
        int, typer.Option(help="With auto: the same for the time from one token to the next.", min=0)
    ] = 0,
    expected: Annotated[
        int | None, typer.Option(help="Refuse unless the alias is at this record's number.", show_default=False)
    ] = None,
    reason: Reason = "",
    tenant: Tenant = None,
) -> None:
    """Say how an alias is served, whatever it points at: merged for the lowest latency, swapped, or auto. Or show it."""
    session = session_of(context)
    owner = session.tenant(tenant)
    name = f"tenants/{owner}/adapters/{adapter}/aliases/{alias}"
    with session.client() as client:
        if route is None:
            if first_token_ms or between_tokens_ms:
                raise typer.BadParameter("a latency target goes with --route auto")
            known = client.get_adapter(f"tenants/{owner}/adapters/{adapter}").aliases
            found = next((one for one in known if one.name == name), None)
            if found is None:
                raise typer.BadParameter(f"{adapter} has no alias {alias}")
            session.show(found, "\n".join([_line(adapter, alias, found), *_merged(client, owner, adapter, alias)]))
            return
        changed = client.set_alias_policy(
            name, route, expected, reason, first_token_ms=first_token_ms, between_tokens_ms=between_tokens_ms
        )
    session.show(changed, _line(adapter, alias, changed))


def _line(adapter: str, alias: str, record: registry_pb2.Alias) -> str:
    targets = [
        f"{what} within {ms} ms"
        for what, ms in (("first token", record.first_token_ms), ("next token", record.between_tokens_ms))
        if ms
    ]
    served = ", ".join([record.route, *targets])
    return f"{adapter}:{alias} is {target(record)}, {served} (record {record.number})"


def _merged(client: Client, tenant: str, adapter: str, alias: str) -> list[str]:
    """What the serving service makes of it now; nothing for a caller who may not see that."""
    try:
        rows = client.held().merged
    except (RemoteForbidden, RemoteUnavailable):
        return []
    lines = []
    for row in rows:
        wants = {one.removesuffix(" (auto)") for one in row.wanted_by}
        if row.tenant == tenant and f"{adapter}:{alias}" in wants:
            state = pb.MergedState.Name(row.state).removeprefix("MERGED_STATE_").lower()
            why = row.promoted_because or row.why
            lines.append(f"merged engine of {row.version[:12]}: {state}{f' ({why})' if why else ''}")
    return lines
