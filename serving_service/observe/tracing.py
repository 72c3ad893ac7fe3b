"""OpenTelemetry spans: the call, the generation inside it, and the generation's stages.

Owns spans and their attributes: ids, sizes and times, never prompt text, keys or error messages. The caller's W3C trace
context is the parent; what runs below (vLLM) finds its own parent in `graftwork.trace_context`. Uses a provider of its own:
vLLM sets the global one.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from graftwork.trace_context import set_trace_headers, trace_headers
from serving_service.core.observing import CallBegan, CallEnded, Produced, Seen, Stage, StageBegan, StageEnded

_QUIET = ("/grpc.",)  # health and reflection: probes come every second
_CLOSE_S = 5.0
_FINE = frozenset({"OK", "CANCELLED"})


@dataclass(slots=True)
class _Generation:
    span: Span
    stages: dict[Stage, Span] = field(default_factory=dict)


class Tracing:
    """Makes spans of calls (`graftwork.rpc.observing.CallObserver`) and of generations (`core.observing.Observer`).

    Args:
        processor: takes the spans that have ended.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        name = os.environ.get("OTEL_SERVICE_NAME", "graftwork-serving")
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("graftwork.serving")
        self._context = TraceContextTextMapPropagator()
        self._generations: dict[str, _Generation] = {}

    def close(self) -> None:
        """Sends what is left; gives up after some seconds, for a collector that is away must not hold up a stop."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True, name="last spans")
        last.start()
        last.join(_CLOSE_S)

    def began(self, method: str) -> Callable[[str], None]:
        """Begins a call's span; a gRPC method or an HTTP route."""
        if method.startswith(_QUIET):
            return lambda status: None
        span = self._begin(method.lstrip("/"), SpanKind.SERVER)
        self._become_parent(span)

        def ended(status: str) -> None:
            span.set_attribute("graft.status", status)
            if status not in _FINE:
                span.set_status(Status(StatusCode.ERROR, status))
            span.end()

        return ended

    def see(self, event: Seen) -> None:
        match event:
            case CallBegan():
                span = self._begin("generation")
                span.set_attributes({"graft.generation_id": event.call, "graft.tenant": event.tenant})
                self._generations[event.call] = _Generation(span)
            case StageBegan() if known := self._generations.get(event.call):
                span = self._begin(event.stage.value, below=known.span)
                known.stages[event.stage] = span
                if event.stage is Stage.GENERATE:
                    self._become_parent(span)
            case Produced(since_arrival=first) if first is not None and (known := self._generations.get(event.call)):
                known.stages.get(Stage.GENERATE, known.span).add_event("first token")
            case StageEnded() if (known := self._generations.get(event.call)) and event.stage in known.stages:
                _end(known.stages.pop(event.stage), event.error)
            case CallEnded() if known := self._generations.pop(event.call, None):
                _finish(known.span, event)
            case _:
                pass

    def _begin(self, name: str, kind: SpanKind = SpanKind.INTERNAL, below: Span | None = None) -> Span:
        parent = set_span_in_context(below) if below else self._context.extract(trace_headers())
        return self._tracer.start_span(name, context=parent, kind=kind)

    def _become_parent(self, span: Span) -> None:
        headers: dict[str, str] = {}
        self._context.inject(headers, set_span_in_context(span))
        set_trace_headers(headers)


def _end(span: Span, error: str) -> None:
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end()


def _finish(span: Span, call: CallEnded) -> None:
    span.set_attributes(
        {
            "graft.adapter": call.adapter,
            "graft.version": call.version,
            "graft.route": call.route,
            "graft.tier": call.tier.value if call.tier else "",
            "graft.outcome": call.outcome,
            "gen_ai.usage.input_tokens": call.prompt_tokens,
            "gen_ai.usage.output_tokens": call.completion_tokens,
            "gen_ai.response.finish_reasons": (call.finish_reason,) if call.finish_reason else (),
        }
    )
    span.add_event("finish")
    _end(span, call.error)


def export_to(url: str, protocol: str) -> Tracing:
    """Starts tracing to a collector.

    Args:
        url: where its spans go.
        protocol: 'http/protobuf' or 'grpc'.
    """
    return Tracing(BatchSpanProcessor(_exporter(url, protocol)))


def _exporter(url: str, protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc

        return over_grpc.OTLPSpanExporter(endpoint=url)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

    return over_http.OTLPSpanExporter(endpoint=url)
