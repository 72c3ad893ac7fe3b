"""What watchers see of a request, whatever ends it; what metrics and the access log make of it."""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from adapter_store.errors import NotFound
from graftwork.late_lines import flush
from serving_service.core.admission_queue import AdmissionQueue
from serving_service.core.errors import Draining, InvalidRequest
from serving_service.core.generation import Call
from serving_service.core.observing import (
    CallBegan,
    CallEnded,
    Evicted,
    Loaded,
    Observers,
    Produced,
    Seen,
    Stage,
    StageBegan,
    StageEnded,
)
from serving_service.engine.protocol import EngineUnavailable, Tier
from serving_service.observe.access_log import AccessLog
from serving_service.observe.many_seconds import ManySeconds
from serving_service.observe.metrics import OTHER, Bounded, ServingMetrics
from tests.unit.serving.scripted import VERSION, ScriptedEngine, answer, generation


class Seeing:
    def __init__(self) -> None:
        self.events: list[Seen] = []

    def see(self, event: Seen) -> None:
        self.events.append(event)

    @property
    def end(self) -> CallEnded:
        (found,) = [event for event in self.events if isinstance(event, CallEnded)]
        return found


@pytest.fixture
def seeing() -> Seeing:
    return Seeing()


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


async def test_a_request_is_seen_from_arrival_to_end(tmp_path: Path, seeing: Seeing, engine: ScriptedEngine) -> None:
    started, *_ = await answer(generation(tmp_path, seeing, engine))
    kinds = [type(event) for event in seeing.events]
    assert kinds[0] is CallBegan
    assert kinds[-1] is CallEnded
    stages = [event.stage for event in seeing.events if isinstance(event, StageBegan)]
    assert stages == [Stage.RESOLVE, Stage.QUEUE, Stage.LOAD, Stage.GENERATE]
    assert [event.stage for event in seeing.events if isinstance(event, StageEnded)] == stages
    assert [event.tier for event in seeing.events if isinstance(event, Loaded)] == [Tier.DISK, Tier.HOST]
    pieces = [event for event in seeing.events if isinstance(event, Produced)]
    assert [(piece.tokens, len(piece.gaps)) for piece in pieces] == [(1, 0), (3, 2)], (
        "the first at once, the others at the end"
    )
    assert pieces[0].since_arrival is not None
    assert pieces[1].since_arrival is None
    end = seeing.end
    assert (end.tenant, end.adapter, end.version, end.route, end.tier) == (
        "acme",
        "task",
        VERSION,
        "swapped",
        Tier.STORE,
    )
    assert (end.prompt_tokens, end.completion_tokens, end.outcome, end.finish_reason) == (3, 4, "ok", "stop")
    assert end.call == started.request_id  # type: ignore[union-attr]
    assert {event.call for event in seeing.events if not isinstance(event, Loaded | Evicted)} == {end.call}
    assert "secret" not in repr(seeing.events)


async def test_every_end_is_told_once_and_says_what_it_was(tmp_path: Path, engine: ScriptedEngine) -> None:
    """Refused at once, not found, the engine dies, the caller leaves, the service drains."""
    for model, prompt, error, outcome in (
        ("task", "", InvalidRequest, "invalid"),
        ("NOT A NAME", "x", InvalidRequest, "invalid"),
        ("other", "x", NotFound, "not_found"),
    ):
        seeing = Seeing()
        with pytest.raises(error):
            await answer(generation(tmp_path, seeing, engine), model, prompt)
        assert (seeing.end.outcome, seeing.end.error) == (outcome, error.__name__)
        assert seeing.end.adapter == (model if model.islower() else "")
        assert seeing.end.first_token_seconds is None
    seeing = Seeing()
    engine.fail = True
    with pytest.raises(EngineUnavailable):
        await answer(generation(tmp_path, seeing, engine))
    assert (seeing.end.outcome, seeing.end.completion_tokens) == ("unavailable", 1)
    engine.fail, engine.hold = False, asyncio.Event()
    seeing = Seeing()
    core = generation(tmp_path, seeing, engine)
    stream = core.run(Call("acme", "task", "x"))
    await anext(stream)
    assert core.under_way.count == 1
    await stream.aclose()
    assert (seeing.end.outcome, seeing.end.error, core.under_way.count) == ("cancelled", "", 0)
    assert [event.stage for event in seeing.events if isinstance(event, StageEnded)][-1] is Stage.GENERATE
    seeing = Seeing()
    core = generation(tmp_path, seeing, engine)
    core.under_way.take(False)
    with pytest.raises(Draining) as refused:
        await answer(core)
    assert seeing.end.error == "Draining"
    assert refused.value.retry_after_seconds


async def test_the_engine_is_told_whose_answers_may_come_in_bundles(
    tmp_path: Path, seeing: Seeing, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As admission has it at the time, not when the request began."""
    floods: list[str] = []
    monkeypatch.setattr(AdmissionQueue, "crowds", lambda queue, ticket, now: ticket.tenant in floods)
    async with contextlib.aclosing(generation(tmp_path, seeing, engine).run(Call("acme", "task", "x"))) as stream:
        await anext(stream)
        assert engine.crowds is not None
        assert not engine.crowds()
        floods.append("acme")
        assert engine.crowds()


async def test_an_observer_that_fails_fails_no_request(tmp_path: Path, seeing: Seeing, engine: ScriptedEngine) -> None:
    class Broken:
        def see(self, event: Seen) -> None:
            raise RuntimeError("broken")

    with structlog.testing.capture_logs() as lines:
        events = await answer(generation(tmp_path, Observers([Broken(), seeing]), engine))
    assert events
    assert seeing.end.outcome == "ok"
    assert len([line for line in lines if "observer" in line["event"]]) == 1


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.floats(0, 20)), st.lists(st.floats(0.001, 10), min_size=1, unique=True).map(sorted))
def test_many_seconds_are_counted_as_prometheus_counts_them(values: list[float], buckets: list[float]) -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    expected, many = Histogram("gap", "Text", registry=theirs, buckets=buckets), ManySeconds("gap", "Text", buckets)
    ours.register(many)
    for value in values:
        expected.observe(value)
    many.count(values)

    def counted(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
        found = [sample for family in registry.collect() for sample in family.samples]
        return {(one.name, one.labels.get("le", "")): one.value for one in found if not one.name.endswith("_created")}

    assert counted(ours) == counted(theirs)


async def test_metrics_count_what_happened(tmp_path: Path, engine: ScriptedEngine) -> None:
    registry = CollectorRegistry()
    core = generation(tmp_path, ServingMetrics(registry, 10), engine)
    await answer(core)
    await answer(core)
    await answer(core, "")
    with contextlib.suppress(NotFound):
        await answer(core, "other")
    found = samples(registry)
    assert found["graft_requests_total", ("acme", "ok", "swapped")] == 2
    assert found["graft_requests_total", ("acme", "base", "ok")] == 1
    assert found["graft_requests_total", ("acme", "none", "not_found")] == 1
    assert found["graft_rejections_total", ("NotFound",)] == 1
    assert found["graft_prompt_tokens_total", ("acme",)] == 9
    assert found["graft_completion_tokens_total", ("acme",)] == 12
    assert found["graft_token_gap_seconds_count", ()] == 6
    assert found["graft_first_token_seconds_count", ("store",)] == 1
    assert found["graft_first_token_seconds_count", ("device",)] == 1
    assert found["graft_first_token_seconds_count", ("none",)] == 1
    assert found["graft_load_seconds_count", ("disk",)] == found["graft_load_seconds_count", ("host",)] == 1
    assert VERSION[:12] not in generate_latest(registry).decode()


def test_tenants_in_labels_are_bounded() -> None:
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry, 3)
    for number in range(500):
        seconds = {Stage.QUEUE: 0.5}
        metrics.see(CallEnded(f"{number}", f"t{number}", "a", "", "base", None, 1, 1, seconds, 0.1, 0.2, "ok", "stop"))
    found = samples(registry)
    tenants = {labels[0] for name, labels in found if name == "graft_prompt_tokens_total"}
    assert tenants == {"t0", "t1", "t2", OTHER}
    assert found["graft_prompt_tokens_total", (OTHER,)] == 497
    assert found["graft_queue_seconds_count", ()] == 500
    assert Bounded(0).label("acme") == OTHER


async def test_the_access_log_has_one_line_without_the_prompt(tmp_path: Path, engine: ScriptedEngine) -> None:
    with structlog.testing.capture_logs() as lines:
        core = generation(tmp_path, AccessLog(), engine)
        await answer(core, prompt="a secret prompt")
        with contextlib.suppress(InvalidRequest):
            await answer(core, model="A SECRET IN THE WRONG FIELD", prompt="a secret prompt")
        assert not [line for line in lines if line["event"] == "generation"]  # not before the answers are out
        flush()
    mine = [line for line in lines if line["event"] == "generation"]
    assert len(mine) == 2
    good, bad = mine
    assert (good["tenant"], good["adapter"], good["version"]) == ("acme", "task", VERSION[:12])
    assert (good["route"], good["tier"], good["outcome"], good["finish_reason"]) == ("swapped", "store", "ok", "stop")
    assert (good["prompt_tokens"], good["completion_tokens"]) == (3, 4)
    assert {"resolve_ms", "load_ms", "generate_ms", "first_token_ms", "total_ms", "generation_id"} <= good.keys()
    assert (bad["outcome"], bad["error"], bad["adapter"]) == ("invalid", "InvalidRequest", "-")
    assert "secret" not in json.dumps(lines).lower()
