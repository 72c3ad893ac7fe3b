"""`graft store`: garbage collection, the check, the copy. None of them needs a service to be up."""

import re
from typing import Annotated

import typer
from rich.console import Group

from graftwork.cli.caring import CareView, amounts
from graftwork.cli.session import Session, session_of, table
from graftwork.errors import ErrorCode, GraftError
from graftwork.local.store_care import run_care

app = typer.Typer(no_args_is_help=True, help="Look after the adapter store; services may be up or down.")
Store = Annotated[
    str | None,
    typer.Option(envvar="GRAFT_STORE_URL", help="file:///... or s3://bucket/prefix?endpoint=...; default: the home's."),
]
Parallel = Annotated[int, typer.Option(min=1, max=64, help="Requests to the store at once.")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class StoreDamaged(GraftError):
    """Something in the store is lost or unreadable."""

    code = ErrorCode.CORRUPT


class NotAllDone(GraftError):
    """Something stood in the way of garbage collection."""

    code = ErrorCode.PRECONDITION


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise typer.BadParameter("give a number and a unit: 36h, 90m, 7d")
    return float(match[1]) * _UNITS[match[2]]


@app.command()
def gc(
    context: typer.Context,
    store: Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Remove nothing; say what would be.")] = False,
    grace: Annotated[str, typer.Option(help="Keep what nobody names for so long: 36h, 7d; at least 4h.")] = "24h",
    parallel: Parallel = 8,
) -> None:
    """Remove what was deleted long ago, blobs that no manifest names, and traces of writers that died."""
    session = session_of(context)
    seconds = _seconds(grace)
    arguments = ["gc", "--store", _url(session, store), "--grace-seconds", str(seconds), "--parallel", str(parallel)]
    with CareView(session) as view:
        result = run_care([*arguments, *(["--dry-run"] if dry_run else [])], view.progress, view.finding)
    removed = amounts(("would remove" if dry_run else "removed", "objects", "size"), result["removed"])
    kept = amounts(("kept", "objects", "size"), result["kept"])
    session.show(result | {"findings": view.plain_findings()}, Group(removed, "", kept) if result["kept"] else removed)
    view.show_findings()
    if result["left_alone"]:
        raise NotAllDone(
            f"{result['left_alone']} things stood in the way of the collection; mend them and run it again"
        )


@app.command()
def check(
    context: typer.Context,
    store: Store = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte instead of comparing sizes only.")] = False,
    parallel: Parallel = 8,
) -> None:
    """Look at every object: exit code 1 when something is damaged."""
    session = session_of(context)
    arguments = ["check", "--store", _url(session, store), "--parallel", str(parallel)]
    with CareView(session) as view:
        result = run_care([*arguments, *(["--deep"] if deep else [])], view.progress, view.finding)
    counts = result["findings"]
    rows = [[result["objects"], result["bytes"], counts["damaged"], counts["warning"], counts["note"]]]
    session.show(
        result | {"counts": counts, "findings": view.plain_findings()},
        table(("objects", "bytes", "damaged", "warnings", "notes"), rows),
    )
    view.show_findings()
    if counts["damaged"]:
        raise StoreDamaged(f"{counts['damaged']} objects or logs of the store are damaged")


@app.command()
def copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Store to read; may be in use.")],
    destination: Annotated[str, typer.Argument(help="Store to write; nobody may use it yet.")],
    parallel: Parallel = 8,
) -> None:
    """Copy a store into another one, verified; run it again after an interruption, and to catch up."""
    session = session_of(context)
    with CareView(session) as view:
        result = run_care(["copy", source, destination, "--parallel", str(parallel)], view.progress, view.finding)
    rows = [[result[name] for name in ("compared", "objects", "bytes", "left_out", "behind", "unknown")]]
    columns = ("compared", "copied", "bytes", "left out", "new meanwhile", "unknown")
    session.show(result | {"findings": view.plain_findings()}, table(columns, rows))
    view.show_findings()
    if result["left_out"]:
        raise StoreDamaged(
            f"{result['left_out']} objects are damaged in the source or name one that is; the rest is copied"
        )
    if result["behind"]:
        session.note("the source was in use: run the same command again to catch up")


@app.command()
def release(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="Id of a job that no trainer knows any more.")],
    tenant: Annotated[str, typer.Option("--tenant", "-t", envvar="GRAFT_TENANT", help="Whose.")],
    store: Store = None,
) -> None:
    """Let go of the data sets of a job whose trainer is gone; `graft store check` names such jobs."""
    session = session_of(context)
    arguments = ["release", "--store", _url(session, store), "--tenant", tenant, "--job", job]
    with CareView(session) as view:
        result = run_care(arguments, view.progress, view.finding)
    session.show(result, f"job {job} holds nothing any more")


def _url(session: Session, store: str | None) -> str:
    return store or session.home.store_url
