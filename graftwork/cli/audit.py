"""`graft audit`: who changed what."""

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.progress import Progress, TextColumn

from graftwork.cli.session import Session, session_of, table
from graftwork.v1 import registry_pb2

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHOWN = 100  # characters of a value in the table; --json has all of it
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def audit(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="Only what concerns this tenant.")] = "",
    action: Annotated[str, typer.Option(help="Only this call: SetAlias, CreateApiKey, ...")] = "",
    actor: Annotated[str, typer.Option(help="Only actors with this in their name or key id.")] = "",
    target: Annotated[str, typer.Option(help="Only resource names that begin so: tenants/acme/adapters/...")] = "",
    outcome: Annotated[str, typer.Option(help="Only this outcome: ok, forbidden, not_found, unknown, ...")] = "",
    since: Annotated[str, typer.Option(help="Not older than: 15m, 24h, 7d, or a date like 2026-11-28.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most entries, newest first.")] = 50,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read all of it instead, and name entries that were changed, removed, moved or added."
        ),
    ] = False,
) -> None:
    """Show the audit log: every call that changed something or took something out, newest first."""
    session = session_of(context)
    if verify:
        _verify(session)
        return
    request = registry_pb2.ListAuditEntriesRequest(
        parent=f"tenants/{tenant}" if tenant else "",
        action=action,
        actor=actor,
        target=target,
        outcome=outcome,
        page_size=min(limit, 1000),
        since=_since(since),
    )
    with session.client() as client:
        entries = list(islice(client.list_audit(request), limit))
    rows = [
        [
            entry.create_time.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            entry.actor,
            entry.action,
            _named(entry.target),
            entry.outcome,
            "\n".join([*map(_change, entry.changes), *([f"({entry.reason})"] if entry.reason else [])]),
        ]
        for entry in entries
    ]
    session.show(entries, table(("when", "who", "did", "to", "outcome", "from -> to"), rows))


def _verify(session: Session) -> None:
    """Prints what the services find; ends with 1 when something is wrong."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,} entries"))
    quiet = session.as_json or not session.err.is_terminal
    with session.client() as client, Progress(*columns, console=session.err, disable=quiet, transient=True) as bar:
        task = bar.add_task("reading", total=None)
        report = client.verify_audit(lambda count: bar.update(task, completed=count))
    chains = [
        [
            chain.writer,
            chain.service,
            chain.number,
            chain.create_time.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            "its writer" if chain.vouched else "nobody",
        ]
        for chain in report.chains
    ]
    session.show(report, table(("chain", "written by", "entries", "newest", "its end is vouched for by"), chains))
    for problem in report.problems:
        session.err.print(_problem(problem), style="red", markup=False, highlight=False, soft_wrap=True)
    session.note(f"{report.entries} entries, {report.unchained} of them in no chain, {len(report.problems)} problems")
    if report.problems:
        raise typer.Exit(1)


def _problem(problem: registry_pb2.AuditProblem) -> str:
    kind = registry_pb2.AuditProblem.Kind.Name(problem.kind).removeprefix("KIND_").lower()
    row = f"{problem.number} to {problem.last_number}" if problem.last_number > problem.number else f"{problem.number}"
    place = f" {row} of chain {problem.writer}" if problem.writer else ""
    lies = f", v1/audit/{problem.object}" if problem.object else ""
    return f"{kind}: entry{place}{lies}: {problem.text}"


def _change(change: registry_pb2.AuditChange) -> str:
    sides = f"{_short(change.before) or '-'} -> {_short(change.after) or '-'}"
    return f"{change.field}: {sides}"


def _named(target: str) -> str:
    """A resource name as commands take it: `acme`, `acme/support`, `acme/support@4af4`, `acme/support:prod`."""
    name = target.removeprefix("tenants/").replace("/adapters/", "/")
    return _short(name.replace("/versions/", "@").replace("/aliases/", ":"))


def _short(text: str) -> str:
    """A text for the table: digests by their beginning."""
    shown = _DIGEST.sub(r"\1", text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def _since(text: str) -> Timestamp | None:
    if not text:
        return None
    made = Timestamp()
    span = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    if span:
        made.FromDatetime(datetime.now(UTC) - timedelta(seconds=int(span[1]) * _UNITS[span[2]]))
        return made
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: say 15m, 24h, 7d, or a date like 2026-11-28") from None
    made.FromDatetime(moment.astimezone(UTC))
    return made
