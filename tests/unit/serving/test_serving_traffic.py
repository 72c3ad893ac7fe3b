"""Traffic of the last minutes: what is counted, that nothing is counted twice or kept for ever, and percentiles near the true ones."""

import asyncio
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_store.errors import NotFound
from serving_service.core.errors import RateLimited
from serving_service.core.generation import Call
from serving_service.core.observing import CallBegan, CallEnded, Produced, Stage, StageBegan, StageEnded
from serving_service.core.rolling import Latencies, Ring, Slot
from serving_service.core.traffic import Traffic, Window
from serving_service.engine.protocol import EngineUnavailable
from tests.unit.serving.scripted import ScriptedEngine, answer, generation


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now


def end(call: str, tenant: str, outcome: str = "ok", error: str = "", first: float | None = 0.1) -> CallEnded:
    return CallEnded(call, tenant, "", "", "base", None, 3, 4, {}, first, 0.5, outcome, "stop", error)


def whole_call(traffic: Traffic, tenant: str, number: int = 0) -> None:
    call = f"{tenant}-{number}"
    traffic.see(CallBegan(call, tenant, ""))
    traffic.see(StageBegan(call, Stage.QUEUE))
    traffic.see(StageEnded(call, Stage.QUEUE, 0.0))
    traffic.see(Produced(call, 4, 0.1, ()))
    traffic.see(end(call, tenant))


def minute(traffic: Traffic, tenant: str) -> Window:
    return traffic.of(tenant).windows[0]


@given(st.lists(st.floats(0.0015, 1000), min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_percentiles_are_within_a_fifth_of_the_true_ones(seconds: list[float], share: float) -> None:
    taken = Latencies()
    for value in seconds:
        taken.take(value)
    true = sorted(seconds)[max(1, math.ceil(share * len(seconds))) - 1]
    assert taken.count == len(seconds)
    assert true / 1.201 <= taken.percentile(share) <= true * 1.201


def test_latencies_beyond_the_scale_are_counted_at_its_ends() -> None:
    taken = Latencies()
    for value in (0.0, 1e-9, 1e9):
        taken.take(value)
    assert taken.count == 3
    assert taken.percentile(0.5) <= 0.001
    assert taken.percentile(1.0) >= 3600
    assert Latencies().percentile(0.5) == 0


@given(st.lists(st.tuples(st.floats(0, 400), st.integers(1, 5)), max_size=60))
def test_a_window_holds_what_came_in_it_and_the_ring_stays_small(steps: list[tuple[float, int]]) -> None:
    """Against the plain list of everything that ever came."""
    ring, now, came = Ring(5.0, 60), 0.0, list[tuple[float, int]]()
    for pause, count in steps:
        now += pause
        ring.now(now).requests += count
        came.append((now, count))
        for slots in (12, 60):
            begin = now - ring.seconds(now, slots)
            assert begin <= now - slots * 5.0
            assert ring.sum(now, slots).requests == sum(n for at, n in came if at >= begin - 1e-6)
        assert sum(slot.requests for slot in ring.series(now)) + ring.sum(now, 0).requests == ring.sum(now, 60).requests
        assert len(ring) <= 61


async def test_each_request_is_counted_once_as_what_became_of_it(tmp_path: Path) -> None:
    """Answered, refused before it was found, cut off by its caller, failed after its first token."""
    traffic, engine = Traffic(), ScriptedEngine()
    core = generation(tmp_path, traffic, engine)
    await answer(core)
    with pytest.raises(NotFound):
        await answer(core, "other")
    engine.fail = True
    with pytest.raises(EngineUnavailable):
        await answer(core)
    engine.fail, engine.hold = False, asyncio.Event()
    stream = core.run(Call("acme", "task", "x"))
    await anext(stream)
    assert (traffic.of("acme").running, traffic.of("acme").waiting) == (1, 0)
    await stream.aclose()
    row = traffic.of("acme", series=True)
    counts = row.windows[0].counts
    assert (row.running, row.waiting) == (0, 0)
    assert (counts.requests, counts.answered, counts.failed, counts.cancelled) == (4, 1, 1, 1)
    assert counts.rejections == {"NotFound": 1}
    assert counts.prompt_tokens == 9, "three of each that reached the engine"
    assert counts.completion_tokens == 4 + 1 + 1
    assert (row.windows[0].first_token.count, row.windows[0].whole.count) == (3, 1)
    assert [window.counts.requests for window in row.windows] == [4, 4, 4]
    total = (await traffic.report()).total
    assert [w.counts for w in total.windows] == [w.counts for w in row.windows], "one tenant is all there is"


def test_waiting_and_running_are_told_apart_and_return_to_nothing() -> None:
    traffic = Traffic(Clock())

    def now() -> tuple[int, int]:
        row = traffic.of("acme")
        return row.waiting, row.running

    traffic.see(CallBegan("a", "acme", ""))
    assert now() == (0, 0)
    traffic.see(StageBegan("a", Stage.QUEUE))
    assert now() == (1, 0)
    traffic.see(StageEnded("a", Stage.QUEUE, 1.0))
    assert now() == (0, 1)
    traffic.see(StageBegan("a", Stage.QUEUE))  # a merged engine died under it, and it waits again
    assert now() == (1, 0)
    traffic.see(StageEnded("a", Stage.QUEUE, 1.0, "QueueFull"))
    assert now() == (0, 0)
    traffic.see(end("a", "acme", "exhausted", "QueueFull", None))
    assert now() == (0, 0)
    assert minute(traffic, "acme").counts.rejections == {"QueueFull": 1}


async def test_an_hour_later_nothing_is_left_of_a_tenant_and_rates_are_by_covered_time() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    clock.now += 10
    whole_call(traffic, "acme")
    assert minute(traffic, "acme").seconds == 10, "no longer than it has been counting"
    clock.now += 90
    assert [w.counts.requests for w in traffic.of("acme").windows] == [0, 1, 1]
    assert 60 <= minute(traffic, "acme").seconds < 65
    assert [row.tenant for row in (await traffic.report()).tenants] == ["acme"]
    clock.now += 3700
    report = await traffic.report(series=True)
    assert report.tenants == ()
    assert report.total.windows[2].counts == Slot()
    assert report.total.hour is not None
    assert len(report.total.hour.slots) == 60


async def test_rows_are_bounded_the_total_is_not_and_it_says_who_is_missing() -> None:
    """Whoever is quiet for longest goes first, and nobody with requests under way."""
    traffic = Traffic(Clock(), most_tenants=3)
    traffic.see(CallBegan("long", "busy", ""))
    traffic.see(StageBegan("long", Stage.QUEUE))
    for number in range(50):
        whole_call(traffic, f"t{number}", number)
    report = await traffic.report()
    assert {row.tenant for row in report.tenants} == {"busy", "t48", "t49"}
    assert report.left_out
    assert report.total.windows[0].counts.requests == 50
    traffic.see(end("long", "busy", "cancelled", "", None))
    assert (await traffic.report()).total.waiting == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["ok", "cancelled", "exhausted"])), max_size=40))
def test_tenants_rows_add_up_to_the_total(ends: list[tuple[str, str]]) -> None:
    traffic = Traffic(Clock())
    for number, (tenant, outcome) in enumerate(ends):
        traffic.see(CallBegan(str(number), tenant, ""))
        error = RateLimited.__name__ if outcome == "exhausted" else ""
        traffic.see(end(str(number), tenant, outcome, error, None if error else 0.1))
    report = asyncio.run(traffic.report())
    assert not report.left_out
    for read in (
        lambda s: s.requests,
        lambda s: s.answered,
        lambda s: s.cancelled,
        lambda s: s.rejected,
        lambda s: s.prompt_tokens,
    ):
        assert sum(read(row.windows[1].counts) for row in report.tenants) == read(report.total.windows[1].counts)
    tokens = [row.windows[2].counts.prompt_tokens for row in report.tenants]
    assert tokens == sorted(tokens, reverse=True)
