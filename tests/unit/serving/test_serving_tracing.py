"""Spans hang together, from the caller's own to what the engine gets, and hold no prompt text."""

import asyncio
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from graftwork.trace_context import set_trace_headers, trace_headers
from serving_service.core.generation import Call
from serving_service.engine.protocol import EngineUnavailable
from serving_service.observe.tracing import Tracing
from tests.unit.serving.scripted import VERSION, ScriptedEngine, answer, generation

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    return Tracing(SimpleSpanProcessor(spans))


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    found = {span.name: span for span in spans.get_finished_spans()}
    assert len(found) == len(spans.get_finished_spans())
    return found


def parent(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def own(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


async def test_a_calls_spans_are_one_tree_below_the_callers(
    tmp_path: Path, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    engine = ScriptedEngine()
    set_trace_headers({"traceparent": HEADER})
    ended = tracing.began("/graftwork.v1.ServingService/Generate")
    await answer(generation(tmp_path, tracing, engine))
    ended("OK")
    found = by_name(spans)
    call, whole = found["graftwork.v1.ServingService/Generate"], found["generation"]
    assert {f"{span.context.trace_id:032x}" for span in found.values() if span.context} == {TRACE}
    assert (parent(call), parent(whole)) == (PARENT, own(call))
    for stage in ("resolve", "queue", "load", "generate"):
        assert parent(found[stage]) == own(whole)
        assert found[stage].end_time is not None
    assert engine.traces == [f"00-{TRACE}-{own(found['generate'])}-01"]
    assert [event.name for event in found["generate"].events] == ["first token"]
    assert [event.name for event in whole.events] == ["finish"]
    attributes = dict(whole.attributes or {})
    assert attributes["graft.version"] == VERSION
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert all("secret" not in span.to_json() for span in found.values())


async def test_without_a_caller_a_call_is_its_own_root(
    tmp_path: Path, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    await answer(generation(tmp_path, tracing, ScriptedEngine()))
    assert parent(by_name(spans)["generation"]) == ""


async def test_what_failed_is_marked_and_nothing_stays_open(
    tmp_path: Path, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    engine = ScriptedEngine()
    engine.fail = True
    with pytest.raises(EngineUnavailable):
        await answer(generation(tmp_path, tracing, engine))
    found = by_name(spans)
    for name in ("generate", "generation"):
        assert found[name].status.status_code is StatusCode.ERROR
        assert found[name].status.description == "EngineUnavailable"
    engine.fail, engine.hold = False, asyncio.Event()
    spans.clear()
    stream = generation(tmp_path, tracing, engine).run(Call("acme", "", "x"))
    await anext(stream)
    await stream.aclose()
    found = by_name(spans)
    assert {"resolve", "queue", "generate", "generation"} == found.keys()
    assert found["generation"].status.status_code is StatusCode.UNSET
    assert (found["generation"].attributes or {})["graft.outcome"] == "cancelled"
    assert not tracing._generations


async def test_calls_side_by_side_do_not_mix(tmp_path: Path, tracing: Tracing, spans: InMemorySpanExporter) -> None:
    core = generation(tmp_path, tracing, ScriptedEngine())

    async def call(number: int) -> None:
        set_trace_headers({"traceparent": f"00-{number:032x}-{PARENT}-01"})
        ended = tracing.began("/s/Generate")
        await answer(core)
        ended("OK")

    await asyncio.gather(*(call(number) for number in range(1, 20)))
    trees: dict[int, set[str]] = {}
    for span in spans.get_finished_spans():
        assert span.context is not None
        trees.setdefault(span.context.trace_id, set()).add(span.name)
    assert trees.keys() == set(range(1, 20))
    assert all(names >= {"s/Generate", "generation", "resolve", "generate"} for names in trees.values())


def test_probes_make_no_spans(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    tracing.began("/grpc.health.v1.Health/Check")("OK")
    assert not spans.get_finished_spans()


@pytest.mark.parametrize("sent", ["", "x", HEADER.upper(), HEADER + "-extra", f"00-{TRACE}-{PARENT}\n-01", HEADER[:-1]])
def test_malformed_trace_context_is_dropped(sent: str) -> None:
    set_trace_headers({"traceparent": HEADER, "tracestate": "a=1"})
    assert trace_headers() == {"traceparent": HEADER, "tracestate": "a=1"}
    set_trace_headers({"traceparent": sent, "tracestate": "a=1"})
    assert not trace_headers()
    set_trace_headers({"traceparent": HEADER, "tracestate": "a" * 600})
    assert trace_headers() == {"traceparent": HEADER}
