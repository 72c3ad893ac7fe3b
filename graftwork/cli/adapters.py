"""`graft adapter`: what is published, and where its aliases point."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.table import Table

from graftwork.cli.naming import version_name
from graftwork.cli.provenance import provenance_table
from graftwork.cli.session import last_id, session_of, table
from graftwork.v1 import registry_pb2

app = typer.Typer(no_args_is_help=True, help="Published adapters, versions and aliases.")
Tenant = Annotated[str | None, typer.Option("--tenant", "-t", envvar="GRAFT_TENANT", help="Whose.")]


@app.command(name="list")
def list_adapters(context: typer.Context, tenant: Tenant = None) -> None:
    """List a tenant's adapters, one line an alias."""
    session = session_of(context)
    with session.client() as client:
        adapters = list(client.list_adapters(session.tenant(tenant)))
    rows = [
        [
            last_id(adapter.name),
            last_id(alias.name),
            target(alias),
            alias.route,
            alias.number,
            when(alias),
            alias.reason,
        ]
        for adapter in adapters
        for alias in adapter.aliases
    ] + [[last_id(adapter.name), "-", "-", "-", 0, "-", "-"] for adapter in adapters if not adapter.aliases]
    session.show(adapters, table(("adapter", "alias", "version", "route", "number", "since", "why"), rows))


@app.command()
def show(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="adapter (a line a version), adapter:alias or adapter@version (all of one).")
    ],
    tenant: Tenant = None,
) -> None:
    """Show an adapter's versions, or all of one: how it was made, from what, what it measures, who signed it."""
    session = session_of(context)
    owner = session.tenant(tenant)
    adapter, separator, _ = model.replace("@", ":").partition(":")
    name = f"tenants/{owner}/adapters/{adapter}"
    with session.client() as client:
        found = client.get_adapter(name)
        if separator:
            versions = [client.get_version(version_name(client, owner, model))]
        else:
            versions = list(client.list_versions(name))
    pointing: dict[str, list[str]] = {}
    for alias in found.aliases:
        for digest in [share.version for share in alias.split] or [alias.version]:
            pointing.setdefault(digest, []).append(last_id(alias.name))
    if separator:
        shown = provenance_table(versions[0], pointing.get(last_id(versions[0].name), []))
    else:
        shown = version_table(versions, pointing)
    session.show({"adapter": found, "versions": versions}, shown)
    if not separator:
        session.note(f"all of one version: graft adapter show {adapter}@VERSION")


def version_table(versions: Sequence[registry_pb2.Version], pointing: Mapping[str, list[str]]) -> Table:
    """One line a version; `pointing` says which aliases name its digest."""
    rows = [
        [
            last_id(item.name)[:12],
            ",".join(pointing.get(last_id(item.name), [])) or "-",
            item.rank,
            ",".join(item.target_modules),
            item.parameters,
            item.size_bytes,
            _metric(item, "base_eval_loss"),
            _metric(item, "eval_loss"),
            _signed(item),
            item.made_by,
        ]
        for item in versions
    ]
    columns = ("version", "alias", "rank", "modules", "parameters", "bytes", "base loss", "loss", "signed", "made by")
    return table(columns, rows)


def target(alias: registry_pb2.Alias) -> str:
    """Where an alias points: a version's first characters, or those of a split with their weights."""
    if alias.removed:
        return "(deleted)"
    return " ".join(f"{item.version[:12]}={item.weight}" for item in alias.split) or alias.version[:12]


def when(alias: registry_pb2.Alias) -> str:
    return alias.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")


def _signed(version: registry_pb2.Version) -> str:
    """Key ids of the signatures that fit; whether they are trusted is not known here."""
    good = [signature.key_id for signature in version.signatures if not signature.problem]
    bad = len(version.signatures) - len(good)
    return " ".join([*good, *([f"({bad} INVALID)"] if bad else [])]) or "-"


def _metric(version: registry_pb2.Version, name: str) -> str:
    metrics = dict(version.metrics)
    return f"{metrics[name]:.4f}" if name in metrics else "-"
