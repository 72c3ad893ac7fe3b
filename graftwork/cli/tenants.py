"""`graft tenant`: who is served."""

from typing import Annotated

import typer
from rich.table import Table

from graftwork.cli.session import last_id, session_of, table
from graftwork.v1 import registry_pb2

app = typer.Typer(no_args_is_help=True, help="Tenants, their keys and their limits.")
Limit = Annotated[int | None, typer.Option(help="0 is unlimited.")]


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
def show(context: typer.Context, tenant: str) -> None:
    """Show a tenant's state, weight and limits."""
    session = session_of(context)
    with session.client() as client:
        found = client.get_tenant(tenant)
    session.show(found, _settings(found))


@app.command()
def disable(context: typer.Context, tenant: str) -> None:
    """Refuse a tenant's keys on every service; what it has stored stays."""
    _switch(context, tenant, disabled=True)


@app.command()
def enable(context: typer.Context, tenant: str) -> None:
    """Take a tenant's keys again."""
    _switch(context, tenant, disabled=False)


@app.command()
def limits(
    context: typer.Context,
    tenant: str,
    weight: Annotated[int | None, typer.Option(help="Share of a busy fleet, 1 to 1000.")] = None,
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    concurrency: Limit = None,
    queue_length: Limit = None,
    max_running_jobs: Limit = None,
    max_queued_jobs: Limit = None,
    expected: Annotated[
        int | None, typer.Option(help="Only if the record still has this number (see `graft tenant show`).")
    ] = None,
) -> None:
    """Set a tenant's weight and limits; what is not given stays as it is."""
    session = session_of(context)
    request = registry_pb2.UpdateTenantRequest(
        name=f"tenants/{tenant}",
        weight=weight,
        expected_number=expected,
        limits=registry_pb2.TenantLimits(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            concurrency=concurrency,
            queue_length=queue_length,
            max_running_jobs=max_running_jobs,
            max_queued_jobs=max_queued_jobs,
        ),
    )
    with session.client() as client:
        changed = client.update_tenant(request)
    session.show(changed, _settings(changed))


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


def _switch(context: typer.Context, tenant: str, *, disabled: bool) -> None:
    session = session_of(context)
    with session.client() as client:
        changed = client.update_tenant(registry_pb2.UpdateTenantRequest(name=f"tenants/{tenant}", disabled=disabled))
    text = "its keys are refused everywhere within 5 s" if disabled else "its keys are taken again within 5 s"
    session.show(changed, f"{tenant} is {'disabled' if disabled else 'enabled'} (record {changed.number}): {text}")


def _settings(item: registry_pb2.Tenant) -> Table:
    rows: list[list[object]] = [
        ["state", "disabled" if item.disabled else "active"],
        ["record", str(item.number)],
        ["weight", str(item.weight)],
    ]
    rows += [
        [field.name.replace("_", " "), str(getattr(item.limits, field.name) or "unlimited")]
        for field in registry_pb2.TenantLimits.DESCRIPTOR.fields
    ]
    return table((last_id(item.name), ""), rows)


def _when(item: registry_pb2.Tenant) -> str:
    return item.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
