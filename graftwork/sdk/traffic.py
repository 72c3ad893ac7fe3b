"""What a serving node was asked for in the last minutes, by tenant: results, and the call that gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from graftwork.sdk.calls import Api, Call
from graftwork.sdk.reading import read_fields, read_time
from graftwork.v1 import serving_pb2 as pb


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds, within a fifth of the true ones; 0.0 when nothing was counted."""

    count: int
    p50_ms: float
    p95_ms: float

    @classmethod
    def of(cls, message: pb.Percentiles) -> "Latency":
        return cls(message.count, message.p50_ms, message.p95_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficWindow:
    """The last minutes. Requests are counted when they end, tokens as they come.

    Attributes:
        minutes: 1, 5 or 60. seconds: that it really covers; divide by these for rates.
        requests: that ended: answered, cancelled by the caller, failed after the first token, or rejected before it.
        rejections: by reason: rate_limited, queue_full, not_found, ...
        prompt_tokens, completion_tokens: as they came.
        first_token: since arrival. whole_answer: of those that were answered.
    """

    minutes: int
    seconds: float
    requests: int
    answered: int
    cancelled: int
    failed: int
    rejected: int
    rejections: Mapping[str, int]
    prompt_tokens: int
    completion_tokens: int
    first_token: Latency
    whole_answer: Latency

    @classmethod
    def of(cls, message: pb.TrafficWindow) -> "TrafficWindow":
        same = read_fields(
            message,
            "minutes seconds requests answered cancelled failed rejected prompt_tokens completion_tokens",
        )
        return cls(
            **same,
            rejections=MappingProxyType(dict(message.rejections)),
            first_token=Latency.of(message.first_token),
            whole_answer=Latency.of(message.whole_answer),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSeries:
    """60 steps of equal length, oldest first, without the one that is under way.

    Attributes:
        step_seconds: of a step.
        requests, rejected, prompt_tokens, completion_tokens: in each step.
        first_token_p50_ms, first_token_p95_ms, whole_answer_p95_ms: of each step; empty in everybody's traffic, ask for one
            tenant's.
    """

    step_seconds: float
    requests: tuple[int, ...]
    rejected: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    completion_tokens: tuple[int, ...]
    first_token_p50_ms: tuple[float, ...]
    first_token_p95_ms: tuple[float, ...]
    whole_answer_p95_ms: tuple[float, ...]

    @classmethod
    def of(cls, message: pb.TrafficSeries) -> "TrafficSeries":
        lists = {name: tuple(getattr(message, name)) for name in cls.__slots__ if name != "step_seconds"}
        return cls(step_seconds=message.step_seconds, **lists)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantTraffic:
    """One tenant's traffic, or everybody's.

    Attributes:
        tenant: an id; empty: operators who asked for the base.
        running, waiting: requests that hold a place now, or wait for one.
        windows: by minutes: 1, 5 and 60.
        recent, hour: in steps of 5 s and of 60 s; None unless asked for.
    """

    tenant: str
    running: int
    waiting: int
    windows: Mapping[int, TrafficWindow]
    recent: TrafficSeries | None
    hour: TrafficSeries | None

    @classmethod
    def of(cls, message: pb.TenantTraffic) -> "TenantTraffic":
        windows = map(TrafficWindow.of, message.windows)
        return cls(
            tenant=message.tenant,
            running=message.running,
            waiting=message.waiting,
            windows=MappingProxyType({window.minutes: window for window in windows}),
            recent=TrafficSeries.of(message.recent) if message.HasField("recent") else None,
            hour=TrafficSeries.of(message.hour) if message.HasField("hour") else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What this node was asked for in the last hour.

    Attributes:
        since: when it began to count, its start (UTC).
        total: everybody's; None unless an operator asked for everybody's.
        tenants: those that sent something, most tokens first.
        left_out: there are more tenants than the node keeps rows for; `total` has them.
    """

    since: datetime | None
    total: TenantTraffic | None
    tenants: tuple[TenantTraffic, ...]
    left_out: bool

    @classmethod
    def of(cls, message: pb.Traffic) -> "Traffic":
        return cls(
            since=read_time(message, "start_time"),
            total=TenantTraffic.of(message.total) if message.HasField("total") else None,
            tenants=tuple(map(TenantTraffic.of, message.tenants)),
            left_out=message.left_out,
        )


def get_traffic(parent: str, series: bool) -> Call[Traffic]:
    return Call(Api.SERVING, "GetTraffic", pb.GetTrafficRequest(parent=parent, series=series), Traffic.of)
