"""What a live service shows: metrics as the manual lists them, logs without secrets, readiness that tells why, traces to the end."""

import json
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from otlp_receiver import GrpcOtlpReceiver, OtlpReceiver
from prometheus_client.parser import text_string_to_metric_families

from adapter_store.tenants import FRESH_S
from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Answer, Service, World, wait_until

pytestmark = pytest.mark.slow

MANUAL = Path(__file__).parents[3] / "docs" / "operations.md"
SECRET = "zebra-7261-umbrella"


def manual() -> dict[str, set[str]]:
    """The table of metrics: name to labels."""
    rows = re.findall(r"^\| `(graft_\w+)`(?: \{([\w, ]*)\})? \|", MANUAL.read_text(), re.MULTILINE)
    return {name: set(labels.replace(",", " ").split()) for name, labels in rows}


def shown(service: Service) -> dict[str, set[str] | None]:
    """What a service exports: name to labels, None for one that nothing was counted in."""
    found: dict[str, set[str] | None] = {}
    for family in text_string_to_metric_families(service.get("/metrics").text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = [set(sample.labels) - {"le"} for sample in family.samples if not sample.name.endswith("_created")]
        if name.startswith("graft_") and not name.endswith("_created"):  # the client's own: when counting began
            found[name] = labels[0] if labels else None
            assert all(each == labels[0] for each in labels)
    return found


def test_the_manual_lists_exactly_what_is_exported(service: Service) -> None:
    service.generate("acme", "task", "hello", max_tokens=4)
    with pytest.raises(grpc.RpcError):
        service.generate("acme", "nothing", "hello")
    listed, exported = manual(), shown(service)
    assert listed.keys() == exported.keys()
    assert {name: labels for name, labels in exported.items() if labels is not None} == {
        name: listed[name] for name, labels in exported.items() if labels is not None
    }
    counted = {"graft_requests_total", "graft_rejections_total", "graft_first_token_seconds", "graft_rpc_calls_total"}
    assert all(exported[name] is not None for name in counted)


def test_a_request_shows_in_the_metrics(service: Service) -> None:
    def of_globex(name: str) -> float:
        families = text_string_to_metric_families(service.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and s.labels.get("tenant") == "globex")

    names = ("graft_requests_total", "graft_prompt_tokens_total", "graft_completion_tokens_total")
    before = [of_globex(name) for name in names]
    answer = service.generate("globex", "task", "hello", max_tokens=4)
    usage = answer.finished.usage
    grown = [of_globex(name) - old for name, old in zip(names, before, strict=True)]
    assert grown == [1, usage.prompt_tokens, usage.completion_tokens]
    text = service.get("/metrics").text
    assert '"task"' not in text, "an adapter is a label"
    assert answer.started.version[:12] not in text


def test_the_way_into_each_tier_shows_in_the_metrics(service: Service, fresh: str) -> None:
    def loads() -> dict[str, float]:
        families = text_string_to_metric_families(service.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return {s.labels["tier"]: s.value for s in samples if s.name == "graft_load_seconds_count"}

    before = loads()
    assert service.generate("acme", fresh, "hello", max_tokens=2).started.tier == serving_pb2.TIER_STORE
    service.residents()  # what the loop has written it tells when it is asked
    after = loads()
    assert after["disk"] == before.get("disk", 0) + 1
    assert after["host"] == before.get("host", 0) + 1
    assert after["device"] > before.get("device", 0)


def test_no_prompt_and_no_key_in_any_log_line(service: Service) -> None:
    """Not when all goes well, not in refusals, and not when the secret is in a field where it does not belong."""
    service.generate("acme", "task", f"{SECRET} is a secret", max_tokens=8)
    chat = serving_pb2.Messages(messages=[serving_pb2.Message(role="user", content=f"my {SECRET}")])
    sampling = serving_pb2.Sampling(max_tokens=4)
    call = service.stub.Generate(
        serving_pb2.GenerateRequest(model="task", chat=chat, sampling=sampling), metadata=service.as_tenant("acme")
    )
    answer = Answer.read(call)
    wrong: list[dict[str, Any]] = [
        {"model": f"{SECRET} {SECRET}", "prompt": "x"},
        {"model": "task", "prompt": SECRET * 200},
        {"model": "task", "prompt": SECRET, "sampling": serving_pb2.Sampling(stop=[SECRET * 100])},
        {"chat": serving_pb2.Messages(messages=[serving_pb2.Message(role=SECRET, content=SECRET)])},
        {"parent": f"tenants/{SECRET}", "model": "task", "prompt": SECRET},
    ]
    for fields in wrong:
        with pytest.raises(grpc.RpcError):
            list(service.stub.Generate(serving_pb2.GenerateRequest(**fields), metadata=service.as_tenant("acme")))
    strange = (("authorization", f"Bearer gw_{SECRET}_{'0' * 48}"), ("x-note", SECRET))
    with pytest.raises(grpc.RpcError):
        list(service.stub.Generate(serving_pb2.GenerateRequest(prompt=SECRET), metadata=strange))
    assert service.get(f"/{SECRET}?q={SECRET}").status_code == 404
    last = service.generate("acme", "task", "hello", max_tokens=1).started.request_id

    def log_until_last() -> str:
        text = (service.home / "log").read_text(errors="replace")
        return text if last in text and text.endswith("\n") else ""

    log = wait_until("the last call's line is in the log, and so all before it", log_until_last, 30)
    lines = [json.loads(line) for line in log.splitlines() if '"generation"' in line]
    mine = [line for line in lines if line.get("generation_id") == answer.started.request_id]
    assert len(mine) == 1
    assert mine[0]["version"] == answer.started.version[:12]
    assert (mine[0]["tenant"], mine[0]["outcome"]) == ("acme", "ok")
    assert SECRET not in log
    for key in (*service.world.keys.values(), service.world.operator_key):
        assert key not in log
        assert key.rsplit("_", 1)[1] not in log
    assert SECRET not in service.get("/metrics").text


def test_a_store_that_is_gone_stops_only_what_was_never_asked(service: Service, world: World) -> None:
    """Keys, aliases and adapters that are known go on being served past their cache times, readiness says what is wrong and
    stays; when the store is back, everything is as before."""
    before = service.generate("acme", "task", "hello", max_tokens=8).text
    service.generate("globex", "task", "hello", max_tokens=8)
    store = world.root / "store"
    store.rename(world.root / "store-away")
    try:
        wait_until("the outage is noticed", lambda: service.readiness()["store"]["state"] == "away", 30)
        answer = service.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        assert "not there" in answer.json()["store"]["cause"]
        until = time.monotonic() + FRESH_S + 1
        while time.monotonic() < until:
            assert service.generate("acme", "task", "hello", max_tokens=8).text == before
            for model in ("task:canary", "unknown"):
                with pytest.raises(grpc.RpcError) as away:
                    service.generate("globex", model, "hello")
                assert away.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        (world.root / "store-away").rename(store)
    wait_until("the store's return is noticed", lambda: service.readiness()["store"]["state"] == "reachable", 30)
    with pytest.raises(grpc.RpcError) as missing:
        service.generate("globex", "unknown", "hello")
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    assert service.generate("acme", "task", "hello", max_tokens=8).text == before


def engine_processes(service: Service) -> list[psutil.Process]:
    return [child for child in service.children() if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.thorough
def test_traces_reach_a_collector_and_readiness_tells_of_loading_and_of_death(
    run_service: Callable[..., Service],
) -> None:
    """One trace from the caller to vLLM's own span; then the engine is killed."""
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with OtlpReceiver() as collector, ThreadPoolExecutor(1) as pool:
        service = run_service(otlp_endpoint=collector.endpoint).bound()
        loading = service.get("/readyz")
        assert (loading.status_code, loading.json()["model"]["state"]) == (503, "loading")
        assert service.get("/healthz").status_code == 200
        service.ready()
        assert service.get("/readyz").status_code == 200
        request = serving_pb2.GenerateRequest(
            model="task", prompt=f"{SECRET}?", sampling=serving_pb2.Sampling(max_tokens=4)
        )
        metadata = (*service.as_tenant("acme"), ("traceparent", f"00-{trace}-{caller}-01"))
        answer = Answer.read(service.stub.Generate(request, metadata=metadata, timeout=60))

        check_trace(collector, trace, caller, "graftwork.v1.ServingService/Generate", answer.started.version)

        openai, body = trace[::-1], {"model": "task", "prompt": f"{SECRET}!", "max_tokens": 4}
        bearer = {"authorization": f"Bearer {service.world.keys['acme']}"}
        sent = {**bearer, "traceparent": f"00-{openai}-{caller}-01"}
        assert httpx.post(f"{service.url}/v1/completions", json=body, headers=sent, timeout=60).status_code == 200
        check_trace(collector, openai, caller, "HTTP/POST /v1/completions", answer.started.version)
        assert SECRET not in "".join(map(str, collector.spans))

        # An open watch holds the server's last moments open, so that they can be looked at.
        watch = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stream = service.start_generate("acme", "", "x" * 150, max_tokens=300)
        next(stream)
        for process in engine_processes(service):
            process.kill()
        seen = pool.submit(last_readiness, service)
        with pytest.raises(grpc.RpcError) as cut:
            list(stream)
        assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert service.process.wait(60) == 1
        assert "dead" in seen.result(60)


@pytest.mark.thorough
def test_traces_reach_a_collector_over_grpc(run_service: Callable[..., Service]) -> None:
    trace, caller = "1af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with GrpcOtlpReceiver() as collector:
        service = run_service(otlp_endpoint=collector.endpoint, otlp_protocol="grpc").ready()
        request = serving_pb2.GenerateRequest(model="task", prompt="x", sampling=serving_pb2.Sampling(max_tokens=4))
        metadata = (*service.as_tenant("acme"), ("traceparent", f"00-{trace}-{caller}-01"))
        answer = Answer.read(service.stub.Generate(request, metadata=metadata, timeout=60))
        check_trace(collector, trace, caller, "graftwork.v1.ServingService/Generate", answer.started.version)
        assert service.signal(signal.SIGTERM) == 0


def check_trace(collector: OtlpReceiver | GrpcOtlpReceiver, trace: str, caller: str, call: str, version: str) -> None:
    """The trace runs from the caller over the call, the generation and its stages to vLLM's own span."""

    def mine() -> dict[str, Any]:
        return {span.name: span for span in collector.spans if span.trace_id.hex() == trace}

    names = {call, "generation", "resolve", "queue", "load", "generate", "llm_request"}
    wait_until(f"all spans of {call} have come", lambda: names <= mine().keys(), 60)
    spans = mine()
    parents = {name: span.parent_span_id.hex() for name, span in spans.items()}
    own = {name: span.span_id.hex() for name, span in spans.items()}
    assert parents[call] == caller
    assert parents["generation"] == own[call]
    assert {parents[stage] for stage in ("resolve", "queue", "load", "generate")} == {own["generation"]}
    assert parents["llm_request"] == own["generate"]
    attributes = {a.key: a.value.string_value for a in spans["generation"].attributes}
    assert attributes["graft.version"] == version


def last_readiness(service: Service) -> set[str]:
    """Every state of the model that /readyz tells until nobody answers."""
    states = set()
    while True:
        try:
            states.add(service.readiness()["model"]["state"])
        except (httpx.HTTPError, OSError):
            return states


@pytest.mark.thorough
def test_a_drain_waits_until_a_second_signal(run_service: Callable[..., Service]) -> None:
    """The engine is frozen, so that nothing in flight can end: new calls are refused with a time, readiness says draining,
    and the second signal ends all."""
    service = run_service(drain_seconds=600).ready()
    stream = service.start_generate("acme", "", "x" * 150, max_tokens=300)
    next(stream)
    for process in engine_processes(service):
        process.suspend()
    service.process.send_signal(signal.SIGTERM)
    wait_until("it drains", lambda: service.readiness()["draining"]["state"] == "yes", 30)
    assert service.get("/readyz").status_code == 503
    assert service.get("/healthz").status_code == 200
    assert service.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as refused:
        service.generate("acme", "", "hello")
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert int(dict(refused.value.trailing_metadata())["retry-after-ms"]) > 0
    assert service.process.poll() is None
    service.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as cut:
        list(stream)
    assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
    assert service.process.wait(60) == 0
