"""`graft key create|show` and `graft adapter sign`: who vouches for a version. Private keys stay on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.adapters import Tenant
from graftwork.cli.naming import version_name
from graftwork.cli.session import last_id, session_of, table

app = typer.Typer(no_args_is_help=True, help="Keys that versions are signed with (Ed25519).")


@app.command()
def create(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Of the private key; the public one lies beside it, with .pub.")],
) -> None:
    """Make a key pair; neither file is ever overwritten."""
    from graftwork.signing import SigningKey, public_file  # what it needs costs every other command's start

    session = session_of(context)
    key = SigningKey.create(file).public
    session.show(
        {"id": key.id, "private_key": str(file), "public_key": str(public_file(file))},
        table(("key", "private, keep it secret", "public"), [[key.id, str(file), str(public_file(file))]]),
    )


@app.command()
def show(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file with public keys, or a folder of such files.")],
) -> None:
    """List the ids of public keys, as signatures name them."""
    from graftwork.signing import read_public_keys

    found = read_public_keys(path)
    session_of(context).show([{"id": key} for key in found], table(("key",), [[key] for key in found]))


def sign(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="adapter, adapter:alias or adapter@version (first characters do).")],
    key: Annotated[Path, typer.Option(help="The private key's file; only the signature is sent.")],
    tenant: Tenant = None,
) -> None:
    """Sign a version, so that services which ask for signatures serve it."""
    from graftwork.signing import SigningKey

    session = session_of(context)
    private = SigningKey.load(key)
    with session.client() as client:
        version = client.get_version(version_name(client, session.tenant(tenant), model))
        made = client.sign_version(version, private)
    session.show(made, f"{model} ({last_id(version.name)[:12]}) is signed by key {made.key_id}")
