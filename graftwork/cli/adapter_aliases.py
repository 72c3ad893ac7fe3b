"""`graft adapter promote|split|rollback|history|delete|delete-alias`: where aliases point, and what goes away."""

from typing import Annotated

import typer

from graftwork.cli.adapters import Tenant, target, when
from graftwork.cli.naming import find_digest
from graftwork.cli.session import last_id, session_of, table

Alias = Annotated[str, typer.Option(help="Which alias.")]
Reason = Annotated[str, typer.Option(help="Kept in the history.")]


def promote(
    context: typer.Context,
    adapter: str,
    version: Annotated[str, typer.Argument(help="A version's digest, or its first characters.")],
    alias: Annotated[str, typer.Option(help="Which alias to move.")] = "prod",
    reason: Annotated[str, typer.Option(help="Kept in the alias's history.")] = "",
    tenant: Tenant = None,
) -> None:
    """Point an alias at a version; pointing it back is the roll-back."""
    session = session_of(context)
    name = f"tenants/{session.tenant(tenant)}/adapters/{adapter}"
    with session.client() as client:
        digest = find_digest(client, name, version)
        moved = client.set_alias(f"{name}/aliases/{alias}", digest, reason=reason)
    session.show(moved, f"{adapter}:{alias} is {moved.version[:12]} (record {moved.number})")


def split(
    context: typer.Context,
    adapter: str,
    shares: Annotated[list[str], typer.Argument(help="VERSION=WEIGHT, two or more; first characters do.")],
    alias: Alias = "prod",
    reason: Reason = "",
    tenant: Tenant = None,
) -> None:
    """Share an alias's requests out between versions by weight, for instance OLD=90 NEW=10."""
    session = session_of(context)
    name = f"tenants/{session.tenant(tenant)}/adapters/{adapter}"
    weights: dict[str, int] = {}
    with session.client() as client:
        for share in shares:
            version, equals, weight = share.partition("=")
            if not equals or not weight.isascii() or not weight.isdigit() or len(weight) > 4:
                raise typer.BadParameter(f"{share!r} is not VERSION=WEIGHT with a weight from 1 to 1000")
            digest = find_digest(client, name, version)
            if digest in weights:
                raise typer.BadParameter(f"{version} is given twice")
            weights[digest] = int(weight)
        moved = client.split_alias(f"{name}/aliases/{alias}", weights, reason=reason)
    session.show(moved, f"{adapter}:{alias} is {target(moved)} (record {moved.number})")


def rollback(
    context: typer.Context, adapter: str, alias: Alias = "prod", reason: Reason = "", tenant: Tenant = None
) -> None:
    """Point an alias at the version that it named before; again goes one further back."""
    session = session_of(context)
    with session.client() as client:
        name = f"tenants/{session.tenant(tenant)}/adapters/{adapter}/aliases/{alias}"
        moved = client.roll_back_alias(name, reason=reason)
    session.show(moved, f"{adapter}:{alias} is {target(moved)} again (record {moved.number})")


def history(context: typer.Context, adapter: str, alias: Alias = "prod", tenant: Tenant = None) -> None:
    """Show where an alias has pointed and how it was served, newest first."""
    session = session_of(context)
    with session.client() as client:
        records = client.alias_history(f"tenants/{session.tenant(tenant)}/adapters/{adapter}/aliases/{alias}")
    rows = [[item.number, target(item), item.route, when(item), item.set_by, item.reason or "-"] for item in records]
    session.show(records, table(("number", "version", "route", "since", "by", "why"), rows))


def delete(
    context: typer.Context,
    adapter: str,
    version: Annotated[str, typer.Argument(help="A version's digest, or its first characters; empty: all.")] = "",
    reason: Reason = "",
    tenant: Tenant = None,
) -> None:
    """Delete a version, or an adapter with all its versions; refused while an alias points there."""
    session = session_of(context)
    name = f"tenants/{session.tenant(tenant)}/adapters/{adapter}"
    with session.client() as client:
        if version:
            gone = [client.delete_version(f"{name}/versions/{find_digest(client, name, version)}", reason)]
        else:
            gone = client.delete_adapter(name, reason)
    rows = [[last_id(item.name)[:12], item.purge_time.ToDatetime().strftime("%Y-%m-%d %H:%M")] for item in gone]
    session.show(gone, table(("deleted version", "bytes kept until"), rows))


def delete_alias(context: typer.Context, adapter: str, alias: str, reason: Reason = "", tenant: Tenant = None) -> None:
    """Delete an alias; its history stays, and promoting sets it again."""
    session = session_of(context)
    with session.client() as client:
        name = f"tenants/{session.tenant(tenant)}/adapters/{adapter}/aliases/{alias}"
        removed = client.delete_alias(name, reason=reason)
    session.show(removed, f"{adapter}:{alias} is deleted (record {removed.number})")
