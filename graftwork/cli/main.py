"""The `graft` command: global options, the list of commands, and how errors end.

Exit codes: 0 done, 1 a one-line error on standard error, 2 wrong usage, 130 interrupted.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from graftwork import __version__
from graftwork.cli import (
    adapter_aliases,
    adapter_files,
    adapter_merge,
    adapters,
    alias_policy,
    audit,
    backbones,
    configured,
    consoles,
    datasets,
    demo,
    drain,
    generate,
    job_logs,
    job_plots,
    jobs,
    merged,
    operators,
    recipes,
    residency,
    services,
    signing,
    store,
    tenants,
    traffic,
    whoami,
)
from graftwork.cli.session import Session
from graftwork.config import CONFIG_VARIABLE, ConfigFile
from graftwork.config.apply import apply_file
from graftwork.config.file import FILE_NAME
from graftwork.errors import GraftError
from graftwork.local.home import Home

app = typer.Typer(
    name="graft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One frozen backbone, many grafted LoRA adapters: train, publish and serve a model per tenant.",
)
app.command()(services.up)
app.command()(services.status)
app.command()(services.down)
app.command()(consoles.console)
app.command()(demo.demo)
app.command()(jobs.train)
app.command()(generate.generate)
jobs.app.command()(job_logs.logs)
jobs.app.command()(job_plots.plot)
app.add_typer(jobs.app, name="job")
for command in (
    adapter_files.register,
    adapter_files.export,
    adapter_files.verify,
    adapter_files.diff,
    signing.sign,
    adapter_merge.merge,
    adapter_aliases.promote,
    adapter_aliases.split,
    adapter_aliases.rollback,
    adapter_aliases.history,
    adapter_aliases.delete,
    adapter_aliases.delete_alias,
):
    adapters.app.command()(command)
app.add_typer(adapters.app, name="adapter")
app.add_typer(alias_policy.app, name="alias")
app.add_typer(datasets.app, name="dataset")
app.add_typer(recipes.app, name="recipe")
app.add_typer(tenants.app, name="tenant")
app.add_typer(signing.app, name="key")
app.add_typer(backbones.app, name="backbone")
app.add_typer(store.app, name="store")
app.add_typer(configured.app, name="config")
app.add_typer(operators.app, name="operator")
app.command()(audit.audit)
app.command()(whoami.whoami)
app.command()(residency.residency)
app.command()(traffic.traffic)
app.command()(residency.prefetch)
app.command()(residency.pin)
app.command()(residency.evict)
app.command()(drain.drain)
app.command()(merged.promote)
app.command()(merged.demote)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"graft {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option(envvar="GRAFT_HOME", help="Folder of all local state; default ~/.graftwork.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(envvar=CONFIG_VARIABLE, help="Settings file; default graft.toml in the home folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command; --home, --config and --json are also taken after it."""
    session = Session(Home.open(home), as_json)
    context.obj = session
    file = config or (session.home.root / FILE_NAME if (session.home.root / FILE_NAME).is_file() else None)
    if file:
        session.config = ConfigFile.read(file)
        os.environ[CONFIG_VARIABLE] = str(session.config.path)  # services read it, too
        session.origins.update(apply_file(session.config))


def hoist(arguments: list[str]) -> list[str]:
    """Moves --json, --home and --config to the front, so that they work before and after a command's name alike."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--json" or word.startswith(("--home=", "--config=")):
            front.append(word)
        elif word in ("--home", "--config"):
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return front + rest


def main() -> None:
    """Entry point: every expected error ends as one line and exit code 1."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines about a service that is away help nobody
    try:
        app(args=hoist(sys.argv[1:]), prog_name="graft")  # Typer itself ends usage errors with 2, Ctrl-C with 130
    except OSError as error:
        full = "; free space, then run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        sys.stderr.write(f"graft: {' '.join(str(error).split())}{full}\n")
        sys.exit(1)
    except GraftError as error:
        sys.stderr.write(f"graft: {' '.join(str(error).split())}\n")
        sys.exit(1)
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8 cannot go into a message
        sys.stderr.write(f"graft: {ascii(error.object)[:200]} is not text; use UTF-8\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
