"""The core's traffic as protobuf messages, and who may see whose. Beside `convert`, of which it is a part."""

import asyncio
import re
import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

from adapter_store.names import TenantName
from graftwork.rpc.auth import Principal
from graftwork.v1 import serving_pb2
from serving_service.core.rolling import Slot
from serving_service.core.traffic import Latency, Report, Row, Series, Window

_MS = 1e3


def tenant_of(parent: str, principal: Principal) -> str | None:
    """Returns whose traffic is asked for; None is everybody's.

    Raises:
        NotVisible: another tenant's. InvalidName: `parent` is no tenant's name.
    """
    if not parent:
        return principal.tenant
    tenant = TenantName.parse(parent).tenant
    principal.require_tenant(tenant)
    return tenant


async def traffic_of(report: Report) -> serving_pb2.Traffic:
    """Writes everybody's. Latencies over time are the total's only: percentiles of every step of hundreds of tenants would
    hold up the event loop, which lets others run between two tenants."""
    message = serving_pb2.Traffic(start_time=_ago(report.seconds), total=_row(report.total), left_out=report.left_out)
    for row in report.tenants:
        message.tenants.append(_row(row, latencies=False))
        await asyncio.sleep(0)
    return message


def one_tenants_of(seconds: float, row: Row) -> serving_pb2.Traffic:
    """Writes one tenant's; `seconds` since counting began."""
    return serving_pb2.Traffic(start_time=_ago(seconds), tenants=[_row(row)])


def reason_of(error: str) -> str:
    """`rate_limited` for RateLimited."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", error).lower()


def _ago(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(time.time_ns() - int(seconds * 1e9))
    return stamp


def _row(row: Row, *, latencies: bool = True) -> serving_pb2.TenantTraffic:
    return serving_pb2.TenantTraffic(
        tenant=row.tenant,
        running=row.running,
        waiting=row.waiting,
        windows=map(_window, row.windows),
        recent=_series(row.recent, latencies) if row.recent else None,
        hour=_series(row.hour, latencies) if row.hour else None,
    )


def _window(window: Window) -> serving_pb2.TrafficWindow:
    counts = window.counts
    return serving_pb2.TrafficWindow(
        minutes=window.minutes,
        seconds=window.seconds,
        requests=counts.requests,
        answered=counts.answered,
        cancelled=counts.cancelled,
        failed=counts.failed,
        rejected=counts.rejected,
        rejections={reason_of(error): count for error, count in counts.rejections.items()},
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        first_token=_percentiles(window.first_token),
        whole_answer=_percentiles(window.whole),
    )


def _percentiles(latency: Latency) -> serving_pb2.Percentiles:
    return serving_pb2.Percentiles(count=latency.count, p50_ms=latency.p50 * _MS, p95_ms=latency.p95 * _MS)


def _series(series: Series, latencies: bool) -> serving_pb2.TrafficSeries:
    def each(of: Callable[[Slot], int]) -> list[int]:
        return [of(slot) for slot in series.slots]

    message = serving_pb2.TrafficSeries(
        step_seconds=series.step,
        requests=each(lambda slot: slot.requests),
        rejected=each(lambda slot: slot.rejected),
        prompt_tokens=each(lambda slot: slot.prompt_tokens),
        completion_tokens=each(lambda slot: slot.completion_tokens),
    )
    if latencies:
        for slot in series.slots:
            message.first_token_p50_ms.append(slot.first_token.percentile(0.5) * _MS)
            message.first_token_p95_ms.append(slot.first_token.percentile(0.95) * _MS)
            message.whole_answer_p95_ms.append(slot.whole.percentile(0.95) * _MS)
    return message
