"""`graft audit`: who changed what."""

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from graftwork.cli.session import session_of, table
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
) -> None:
    """Show the audit log: every call that changed something or took something out, newest first."""
    session = session_of(context)
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
