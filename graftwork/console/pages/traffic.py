"""Traffic: what was asked of the serving service in the last minutes, by tenant, as figures, charts and a table that keep fresh.

Owns how the numbers of `ServingService.GetTraffic` are laid out. Does not own the numbers.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from graftwork.console.pages.adapters import owners
from graftwork.console.rendering import number, render
from graftwork.console.visitor import SignedIn
from graftwork.v1 import serving_pb2 as pb

router = APIRouter()
SPANS = (5, 60)
"""Minutes that the charts may show."""
OPERATORS = "(operators)"
"""What operators' requests for the base are called; no tenant can have that name."""
_NOTHING = "\N{EN DASH}"
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table: a tenant, or a window.

    Attributes:
        label: its name.
        tenant: to link to; empty for none.
        row: who it is of.
        window: the numbers.
        spark: path of its requests in the last hour.
    """

    label: str
    tenant: str
    row: pb.TenantTraffic
    window: pb.TrafficWindow
    spark: str = ""

    @property
    def requests_a_minute(self) -> str:
        return rate(self.window.requests * 60, self.window.seconds)

    @property
    def tokens_a_second(self) -> str:
        return rate(self.window.completion_tokens, self.window.seconds)

    @property
    def first_token(self) -> str:
        return percentiles(self.window.first_token)

    @property
    def whole_answer(self) -> str:
        return percentiles(self.window.whole_answer)

    @property
    def reasons(self) -> str:
        found = sorted(self.window.rejections.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{reason.replace('_', ' ')} {number(count)}" for reason, count in found)


@router.get("/traffic")
def traffic(request: Request, visitor: SignedIn, tenant: str = "", span: int = SPANS[0]) -> Response:
    span = span if span in SPANS else SPANS[0]
    seen = visitor.client.traffic(tenant or None, series=True)
    everybody = seen.HasField("total")
    shown = seen.total if everybody else seen.tenants[0]
    return render(
        request,
        visitor,
        "traffic.html",
        tenants=owners(visitor),
        chosen=tenant,
        span=span,
        spans=SPANS,
        now=Line("", "", shown, shown.windows[0]),
        windows=[Line(f"{window.minutes} min", "", shown, window) for window in shown.windows],
        series=json.dumps(series_of(shown.recent if span == SPANS[0] else shown.hour)),
        rows=[_row(row, span) for row in seen.tenants] if everybody else [],
        left_out=seen.left_out,
        everybody=everybody,
        since=seen.start_time,
    )


def series_of(series: pb.TrafficSeries) -> dict[str, Sequence[float | None]]:
    """What the page's script draws: rates by minutes before now, latencies only where something was counted."""
    step, count = series.step_seconds, len(series.requests)
    return {
        "minutes": [round((at - count + 0.5) * step / 60, 3) for at in range(count)],
        "requests": [value * 60 / step for value in series.requests],
        "rejected": [value * 60 / step for value in series.rejected],
        "tokens_in": [value / step for value in series.prompt_tokens],
        "tokens_out": [value / step for value in series.completion_tokens],
        "first_p50": _seen(series.first_token_p50_ms),
        "first_p95": _seen(series.first_token_p95_ms),
        "whole_p95": _seen(series.whole_answer_p95_ms),
    }


def spark(values: Sequence[int]) -> str:
    """The path of a small chart of `values`, to be filled; empty when all are 0."""
    if not (most := max(values, default=0)):
        return ""
    across = _SPARK_WIDTH / max(1, len(values) - 1)
    points = [f"{at * across:.1f} {_SPARK_HEIGHT * (1 - value / most):.1f}" for at, value in enumerate(values)]
    return f"M0 {_SPARK_HEIGHT}L" + "L".join(points) + f"L{_SPARK_WIDTH} {_SPARK_HEIGHT}Z"


def rate(count: float, seconds: float) -> str:
    """`count` in each of `seconds`, with as many digits as people read; a dash before there is a second to speak of."""
    if seconds < 1:
        return _NOTHING
    value = count / seconds
    return number(round(value)) if value >= 10 else f"{value:.1f}"


def percentiles(taken: pb.Percentiles) -> str:
    """`12 ms / 80 ms`: half of all took at most the first, 95 of 100 at most the second."""
    return f"{time(taken.p50_ms)} / {time(taken.p95_ms)}" if taken.count else _NOTHING


def time(milliseconds: float) -> str:
    """`12 ms`, `3.4 s`."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1e3:.1f} s"


def _row(row: pb.TenantTraffic, minutes: int) -> Line:
    window = next(window for window in row.windows if window.minutes == minutes)
    return Line(row.tenant or OPERATORS, row.tenant, row, window, spark(row.hour.requests))


def _seen(values: Iterable[float]) -> list[float | None]:
    return [round(value, 1) or None for value in values]
