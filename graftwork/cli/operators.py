"""`graft operator`: the keys of those who run this installation, in the key file on this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from graftwork.cli.session import Session, session_of, table
from graftwork.operator_keys import OperatorKeyFile
from graftwork.rpc.auth import Role

app = typer.Typer(no_args_is_help=True, help="Keys of operators and viewers, in the key file on this machine.")
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--file", envvar="GRAFT_OPERATOR_KEY_FILE", help="The services' key file; default: operator.key of the home."
    ),
]


@app.command(name="list")
def list_operators(context: typer.Context, file: KeyFile = None) -> None:
    """List the keys by name, role and id; their texts are not shown."""
    session = session_of(context)
    keys = _file(session, file).read()
    session.show(
        [{"id": key.id, "role": key.role.value, "name": key.name, "plain": key.plain} for key in keys],
        table(
            ("id", "role", "name", "kept as"),
            [[key.id, key.role.value, key.name or "-", "the key itself" if key.plain else "its hash"] for key in keys],
        ),
    )


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose it is; the audit log says so.")],
    role: Annotated[
        Literal["operator", "viewer"], typer.Option(help="A viewer sees everything and changes nothing.")
    ] = "operator",
    file: KeyFile = None,
) -> None:
    """Make a key for somebody, shown this once; services take it within a second, without a restart."""
    session = session_of(context)
    key = _file(session, file).add(name, Role(role))
    session.show(
        {"name": name, "role": role, "api_key": key},
        table(("name", "role", "API key (shown once)"), [[name, role, key]]),
    )


@app.command()
def remove(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="NAME", help="Name or id, from `graft operator list`.")],
    file: KeyFile = None,
) -> None:
    """Make a key worthless; services refuse it from the next call on."""
    session = session_of(context)
    gone = _file(session, file).remove(which)
    session.show(
        {"removed": gone.id, "name": gone.name}, f"key {gone.id} of {gone.name or 'nobody by name'} is removed"
    )


@app.command()
def rotate(
    context: typer.Context,
    keep_old_as: Annotated[
        str, typer.Option(help="Keep the old key good under this name until `graft operator remove` ends it.")
    ] = "",
    file: KeyFile = None,
) -> None:
    """Replace the key that this machine's commands use by a new one, without a restart."""
    session = session_of(context)
    target = _file(session, file)
    old, new = target.rotate(keep_old_as)
    end = f"{old.id} stays good as {keep_old_as}" if keep_old_as else f"{old.id} is worthless"
    session.show(
        {"old": old.id, "new": new.id, "kept_as": keep_old_as, "file": str(target.path)},
        f"new key {new.id} is in {target.path}; {end}",
    )


def _file(session: Session, given: Path | None) -> OperatorKeyFile:
    return OperatorKeyFile(given or session.home.operator_key_file)
