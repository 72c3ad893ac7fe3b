"""`graft tenant`: who is served."""

from typing import Annotated

import typer

from graftwork.cli.session import last_id, session_of, table
from graftwork.v1 import registry_pb2

app = typer.Typer(no_args_is_help=True, help="Tenants and their keys.")


@app.command()
def create(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="Letters a-z, digits and '-', at most 63.")],
) -> None:
    """Create a tenant and issue its first key, shown this once."""
    session = session_of(context)
    with session.client() as client:
        made = client.create_tenant(tenant)
        issued = client.create_key(tenant, "first key")
    session.show(
        {"tenant": made, "api_key": issued.secret, "key": issued.key},
        table(("tenant", "API key (shown once)"), [[tenant, issued.secret]]),
    )


@app.command(name="list")
def list_tenants(context: typer.Context) -> None:
    """List all tenants."""
    session = session_of(context)
    with session.client() as client:
        tenants = list(client.list_tenants())
    rows = [[last_id(item.name), "disabled" if item.disabled else "active", _when(item)] for item in tenants]
    session.show(tenants, table(("tenant", "state", "created"), rows))


@app.command()
def key(
    context: typer.Context, tenant: str, name: Annotated[str, typer.Option(help="For people, in lists.")] = ""
) -> None:
    """Issue a further key, shown this once."""
    session = session_of(context)
    with session.client() as client:
        issued = client.create_key(tenant, name)
    session.show(
        {"api_key": issued.secret, "key": issued.key},
        table(("id", "API key (shown once)"), [[issued.key.id, issued.secret]]),
    )


@app.command()
def keys(context: typer.Context, tenant: str) -> None:
    """List a tenant's keys; their texts are kept nowhere."""
    session = session_of(context)
    with session.client() as client:
        found = client.list_keys(tenant)
    rows = [[item.id, item.display_name, "revoked" if item.HasField("revoke_time") else "good"] for item in found]
    session.show(found, table(("id", "name", "state"), rows))


@app.command()
def revoke(
    context: typer.Context, tenant: str, key_id: Annotated[str, typer.Argument(help="From `graft tenant keys`.")]
) -> None:
    """Make a key worthless."""
    session = session_of(context)
    with session.client() as client:
        revoked = client.revoke_key(tenant, key_id)
    session.show(revoked, f"key {revoked.id} of {tenant} is revoked; every node refuses it within 5 s")


def _when(item: registry_pb2.Tenant) -> str:
    return item.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
