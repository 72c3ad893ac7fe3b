"""`graft alias policy`: how an alias's requests are served."""

from typing import Annotated

import typer

from graftwork.cli.adapter_aliases import Reason
from graftwork.cli.adapters import Tenant, target
from graftwork.cli.session import session_of

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
        str,
        typer.Option(
            help="swapped: the adapter beside the shared backbone. merged: an engine of its own, as soon as one is ready."
        ),
    ],
    expected: Annotated[
        int | None, typer.Option(help="Refuse unless the alias is at this record's number.", show_default=False)
    ] = None,
    reason: Reason = "",
    tenant: Tenant = None,
) -> None:
    """Say how an alias is served, whatever it points at: merged for the lowest latency, or swapped."""
    session = session_of(context)
    name = f"tenants/{session.tenant(tenant)}/adapters/{adapter}/aliases/{alias}"
    with session.client() as client:
        changed = client.set_alias_policy(name, route, expected, reason)
    session.show(changed, f"{adapter}:{alias} is {target(changed)}, {changed.route} (record {changed.number})")
