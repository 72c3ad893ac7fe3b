"""`graft traffic`: what the serving service was asked for in the last minutes, by tenant, and how long answers took.

Owns how the numbers are printed. Does not own the numbers (`ServingService.GetTraffic`).
"""

import json
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from graftwork.cli.session import Session, session_of, table, to_plain
from graftwork.client import Client
from graftwork.v1 import serving_pb2 as pb

_COLUMNS = (
    "running", "waiting", "requests", "a minute", "tokens in", "tokens out", "out/s", "rejected", "failed", "cancelled",
    "first token", "whole answer", "reasons",
)  # fmt: skip
OPERATORS = "(operators)"
"""What requests of operators for the base are called; no tenant can have that name."""


class Minutes(StrEnum):
    """Windows that the service counts."""

    ONE = "1"
    FIVE = "5"
    SIXTY = "60"


def traffic(
    context: typer.Context,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", "-t", help="One tenant's, in all windows; else everybody's that the key may see."),
    ] = None,
    minutes: Annotated[Minutes, typer.Option(help="Window of the table of all tenants.")] = Minutes.FIVE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks with --watch.")] = 2.0,
) -> None:
    """Show requests, tokens, rejections and latencies of the last minutes, by tenant (latencies: half of all / 95 of 100)."""
    session = session_of(context)
    with session.client() as client:
        if not watch:
            seen = client.traffic(tenant)
            session.show(seen, _shown(seen, int(minutes)))
            return
        _watch(session, _looks(client, tenant, every), int(minutes))


def _looks(client: Client, tenant: str | None, every: float) -> Iterator[pb.Traffic]:
    while True:
        yield client.traffic(tenant)
        time.sleep(every)


def _watch(session: Session, looks: Iterator[pb.Traffic], minutes: int) -> None:
    """A table that changes in place; in a pipe one table after another, with --json a line for each look."""
    if session.as_json or not session.out.is_terminal:
        for seen in looks:
            line = json.dumps(to_plain(seen)) if session.as_json else _shown(seen, minutes)
            session.out.print(line, markup=False)
        return
    with Live(console=session.out, auto_refresh=False) as live:
        for seen in looks:
            live.update(_shown(seen, minutes), refresh=True)


def _shown(seen: pb.Traffic, minutes: int) -> RenderableType:
    if not seen.HasField("total"):
        (row,) = seen.tenants
        lines = [[f"{window.minutes} min", *_cells(row, window)] for window in row.windows]
        return table(("last", *_COLUMNS), lines, title=row.tenant or None)
    rows = [[row.tenant or OPERATORS, *_cells(row, _of(row, minutes))] for row in seen.tenants]
    rows.append(["all", *_cells(seen.total, _of(seen.total, minutes))])
    parts: list[RenderableType] = [table(("tenant", *_COLUMNS), rows, title=f"last {minutes} min")]
    if seen.left_out:
        parts.append(Text("More tenants than this node keeps rows for: those quiet for longest are in 'all' only."))
    return Group(*parts)


def _of(row: pb.TenantTraffic, minutes: int) -> pb.TrafficWindow:
    return next(window for window in row.windows if window.minutes == minutes)


def _cells(row: pb.TenantTraffic, window: pb.TrafficWindow) -> list[object]:
    seconds = window.seconds or 1.0
    return [
        row.running,
        row.waiting,
        window.requests,
        window.requests * 60 / seconds,
        window.prompt_tokens,
        window.completion_tokens,
        window.completion_tokens / seconds,
        window.rejected,
        window.failed,
        window.cancelled,
        _both(window.first_token),
        _both(window.whole_answer),
        ", ".join(
            f"{reason} {count}" for reason, count in sorted(window.rejections.items(), key=lambda item: -item[1])
        ),
    ]


def _both(taken: pb.Percentiles) -> str:
    return f"{_time(taken.p50_ms)} / {_time(taken.p95_ms)}" if taken.count else "-"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1e3:.3g} s"
