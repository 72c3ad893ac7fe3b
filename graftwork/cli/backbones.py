"""`graft backbone`: the small model that ships with the package, and how it was made."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from graftwork.backbone import DEFAULT_NAME, check_default, default_path
from graftwork.cli.session import session_of
from graftwork.errors import ErrorCode, GraftError

app = typer.Typer(no_args_is_help=True, help="The default backbone.")


class BackboneBroken(GraftError):
    """The shipped weights are not what their digest says."""

    code = ErrorCode.CORRUPT


@app.command()
def path(context: typer.Context) -> None:
    """Print the default backbone's folder."""
    session = session_of(context)
    if not check_default():
        raise BackboneBroken(f"the weights in {default_path()} do not match their digest: install graftwork again")
    session.show({"name": DEFAULT_NAME, "path": str(default_path())}, str(default_path()))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def build(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to write; must be empty or missing.")],
) -> None:
    """Train the default backbone from nothing: minutes on a GPU, hours on two cores.

    Further options (--layers, --width, --steps, --batch, --seed, --device, ...) go to the build:
    `python -m trainer_service.engine.pretrain --help` lists them.
    """
    command = [sys.executable, "-m", "trainer_service.engine.pretrain", "--out", str(out), *context.args]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise typer.Exit(2 if status == 2 else 1)
