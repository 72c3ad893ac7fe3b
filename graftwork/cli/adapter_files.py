"""`graft adapter register|export|verify|diff`: commands that read or move an adapter's files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from graftwork.cli.adapters import Tenant, version_table
from graftwork.cli.naming import digest_or_alias, version_name
from graftwork.cli.provenance import signature_state
from graftwork.cli.session import Session, last_id, session_of, table
from graftwork.client.folders import adapter_files, plain_size
from graftwork.errors import ErrorCode, GraftError
from graftwork.v1 import registry_pb2


class Damaged(GraftError):
    """Stored bytes that are not what their manifest names."""

    code = ErrorCode.CORRUPT


class Unsigned(GraftError):
    """A version that nobody trusted has signed."""

    code = ErrorCode.PRECONDITION


def register(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="The adapter's name: a-z, 0-9 and '-', at most 63.")],
    folder: Annotated[Path, typer.Argument(help="A PEFT folder, or a clone of a repository that holds one.")],
    tenant: Tenant = None,
    alias: Annotated[str, typer.Option(help="Point this alias at it, for instance prod.")] = "",
) -> None:
    """Register an adapter that was trained elsewhere, for the backbone that runs here."""
    session = session_of(context)
    owner = session.tenant(tenant)
    files = adapter_files(folder)
    total = sum(plain_size(source) for source in files.values())
    with session.client() as client, transfer_bar(session) as bar:
        task = bar.add_task(f"registering {adapter}", total=total)
        made = client.register_adapter(owner, adapter, folder, alias, sent=lambda size: bar.advance(task, size))
    if made.HasField("alias"):
        session.note(f"{adapter}:{alias} is {made.alias.version[:12]} (record {made.alias.number})")
    session.show(made, version_table([made.version], {last_id(made.version.name): [alias] if alias else []}))


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="adapter, adapter:alias or adapter@version (first characters do).")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    tenant: Tenant = None,
) -> None:
    """Write a version as a plain PEFT folder, every byte verified."""
    session = session_of(context)
    owner = session.tenant(tenant)
    with session.client() as client, transfer_bar(session) as bar:
        task = bar.add_task(f"exporting {model}", total=None)
        version = client.download_version(
            version_name(client, owner, model),
            folder,
            lambda size, total: bar.update(task, advance=size, total=total),
        )
    session.show(version, f"{version.name} is in {folder}")


def verify(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="adapter (all its versions), adapter:alias or adapter@version.")],
    tenant: Tenant = None,
    trusted: Annotated[
        Path | None, typer.Option(help="Public keys (a file or a folder): one of them must have signed each version.")
    ] = None,
) -> None:
    """Read every stored byte and compare it with the manifest and its signatures; exit 1 when something is wrong."""
    session = session_of(context)
    owner = session.tenant(tenant)
    with session.client() as client:
        if set(model) & set(":@"):
            names = [version_name(client, owner, model)]
        else:
            client.get_adapter(f"tenants/{owner}/adapters/{model}")  # a misspelt name is no sound adapter
            names = [item.name for item in client.list_versions(f"tenants/{owner}/adapters/{model}")]
        checked = [client.verify_version(name) for name in names]
    rows = [
        [last_id(item.version.name)[:12], check.file.path, check.file.size_bytes, check.problem or "sound"]
        for item in checked
        for check in item.files
    ]
    signatures = [
        [last_id(item.version.name)[:12], f"signature by {signature.key_id}", "-", signature_state(signature)]
        for item in checked
        for signature in item.version.signatures
    ]
    session.show(checked, table(("version", "file", "bytes", "state"), [*rows, *signatures]))
    damaged = sum(1 for item in checked for check in item.files if check.problem)
    if damaged:
        raise Damaged(f"{damaged} of {len(rows)} files of {model} are damaged; publish the same content again to heal")
    if wrong := [row for row in signatures if row[-1] != "valid"]:
        raise Damaged(f"{len(wrong)} of {len(signatures)} signatures of {model} are not valid; sign it again")
    if trusted and (unsigned := _unsigned([item.version for item in checked], trusted)):
        raise Unsigned(f"no key of {trusted} has signed {', '.join(unsigned)}; sign it with `graft adapter sign`")


def _unsigned(versions: Sequence[registry_pb2.Version], trusted: Path) -> list[str]:
    """The beginnings of the digests of those that no trusted key has signed; decided here, not by the service."""
    from graftwork.signing import read_public_keys  # what it needs costs every other command's start

    keys = read_public_keys(trusted)
    return [
        last_id(version.name)[:12]
        for version in versions
        if not any(
            (key := keys.get(item.key_id)) and key.fits(version.manifest_sha256, item.signature)
            for item in version.signatures
        )
    ]


def diff(
    context: typer.Context,
    adapter: str,
    one: Annotated[str, typer.Argument(help="A version's digest or its first characters, or an alias.")],
    other: Annotated[str, typer.Argument(help="The same.")],
    tenant: Tenant = None,
) -> None:
    """Show what differs between two versions: settings, recipe, data, metrics, and the weights by module."""
    session = session_of(context)
    name = f"tenants/{session.tenant(tenant)}/adapters/{adapter}"
    with session.client() as client:
        found = client.diff_versions(digest_or_alias(client, name, one), digest_or_alias(client, name, other))
    values = [[item.section, item.field, item.one or "-", item.other or "-"] for item in found.values]
    modules = [
        [item.module, item.norm_one, item.norm_other, item.norm_difference]
        for item in sorted(found.modules, key=lambda item: -item.norm_difference)
    ]
    columns = ("module: norms", one[:12], other[:12], "difference")
    session.show(found, Group(table(("section", "field", one[:12], other[:12]), values), "", table(columns, modules)))


def transfer_bar(session: Session) -> Progress:
    """A progress bar in bytes; silent with --json, and off a terminal, where it would leave an empty line."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(
        *columns, console=session.err, disable=session.as_json or not session.err.is_terminal, transient=True
    )
