"""`graft adapter register`: commands that move an adapter's files between a folder and the registry."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from graftwork.cli.adapters import Tenant, version_table
from graftwork.cli.session import Session, last_id, session_of
from graftwork.client.folders import adapter_files


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
    total = sum(len(source) if isinstance(source, bytes) else source.stat().st_size for source in files.values())
    with session.client() as client, transfer_bar(session) as bar:
        task = bar.add_task(f"registering {adapter}", total=total)
        made = client.register_adapter(owner, adapter, folder, alias, sent=lambda size: bar.advance(task, size))
    if made.HasField("alias"):
        session.note(f"{adapter}:{alias} is {made.alias.version[:12]} (record {made.alias.number})")
    session.show(made, version_table([made.version], {last_id(made.version.name): [alias] if alias else []}))


def transfer_bar(session: Session) -> Progress:
    """A progress bar in bytes; silent with --json, and off a terminal, where it would leave an empty line."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(
        *columns, console=session.err, disable=session.as_json or not session.err.is_terminal, transient=True
    )
