"""Fifty tenants, two hundred adapters, eight slots, Zipf traffic, moving aliases, and a store that goes away for a while.

GRAFT_SOAK_SECONDS makes it longer (300 for a release); the figures are in the junit report's property `soak`.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
from soak_traffic import Outcome, Traffic
from soak_world import soak_world

from tests.contract.rgw import Rgw
from tests.integration.serving.serving_world import Service

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.thorough]

SECONDS = float(os.environ.get("GRAFT_SOAK_SECONDS", "40"))
LONG = SECONDS >= 240  # the memory of a short run is that of warming up
SETTLED = 5.0  # seconds before the cut since when an adapter's alias must not have moved to be sure of being here


def test_every_answer_is_the_right_tenants_and_versions(
    rgw: Rgw,
    run_service: Callable[..., Service],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Right answers always; errors only while the store is away, only UNAVAILABLE, and none of what was in use before."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
    with soak_world(tmp_path, rgw, tenants=50, adapters=200, moving=40) as (world, proxy):
        service = run_service(world=world, max_loras=8, host_budget_bytes=400_000, disk_budget_bytes=1_000_000).ready()
        traffic = Traffic(world, service)
        traffic.start(callers=6)
        memory = [_memory(service)]
        time.sleep(SECONDS * 0.4)  # the soak itself
        memory.append(_memory(service))
        traffic.hold.set()
        cut = time.monotonic()
        proxy.cut()
        time.sleep(SECONDS * 0.2)
        proxy.mend()
        mended = time.monotonic()
        traffic.hold.clear()
        time.sleep(SECONDS * 0.4)
        memory.append(_memory(service))
        traffic.stop()
        failed = [outcome for outcome in traffic.outcomes if outcome.error]
        figures = {
            "seconds": SECONDS, "answers": len(traffic.outcomes) - len(failed), "failed": len(failed),
            "codes": Counter(str(outcome.error) for outcome in failed), "memory_mib": memory,
            "moves": sum(len(log) - 1 for log in traffic.moves.values()),
        }  # fmt: skip
        record_property("soak", json.dumps(figures))
        print(figures)  # noqa: T201  pytest shows it with a failure
        _check(traffic, failed, cut, mended)
        first, middle, last = (sum(parts.values()) for parts in memory)
        assert last < first * 1.5
        if LONG:
            assert last < middle * 1.05, memory
        # And the slots turned over all the time, or nothing of this was tried; how fast is the benchmarks' business.
        assert len({outcome.owner for outcome in traffic.outcomes if not outcome.error}) > 4 * 8


def _check(traffic: Traffic, failed: list[Outcome], cut: float, mended: float) -> None:
    for outcome in traffic.outcomes:
        if outcome.error:
            continue
        allowed = traffic.allowed(outcome, traffic.known_since(outcome, cut, mended))
        assert outcome.version in allowed, ("a version older than promised", outcome)
        assert outcome.text == traffic.world.known[outcome.version][outcome.prompt], ("a wrong answer", outcome)
    for outcome in failed:
        assert outcome.error is grpc.StatusCode.UNAVAILABLE, outcome
        assert outcome.ended >= cut, ("failed although the store was there", outcome)
        assert outcome.began <= mended + 1.5, ("failed although the store was back", outcome)
    used = Counter(o.owner for o in traffic.outcomes if not o.error and cut - SECONDS * 0.3 < o.began and o.ended < cut)
    settled = {
        owner for owner, count in used.most_common(3) if traffic.moves[owner][0][0] == traffic.moves[owner][-1][0]
        or max(after for before, after, _ in traffic.moves[owner] if before < cut) < cut - SETTLED
    }  # fmt: skip
    lost = [outcome for outcome in failed if outcome.owner in settled]
    assert not lost, ("what was popular before the cut stopped being served", lost[:3])


def _memory(service: Service) -> dict[str, float]:
    """MiB of the service and of each of its processes."""
    tree = [psutil.Process(service.process.pid), *service.children()]
    return {f"{number} {process.name()}": process.memory_info().rss / 2**20 for number, process in enumerate(tree)}
