"""The service's faces over real sockets, with a scripted engine: health and readiness, metrics, drain, what a call leaves behind."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from rich.console import Console

from adapter_store import AdapterStore, open_store, read_base
from adapter_store.api.keyring import Keyring
from adapter_store.errors import StoreUnavailable
from graftwork.cli.merged import merged_table
from graftwork.rpc.auth import OPERATOR_PREFIX
from graftwork.rpc.observing import CallMetrics
from graftwork.rpc.server import RpcServer, build_server
from graftwork.v1 import serving_pb2, serving_pb2_grpc
from serving_service.api.convert import merged_of
from serving_service.api.http.health import PATHS, Probed, health_router
from serving_service.api.http.observed import ObservedHttp
from serving_service.api.http.server import HttpServer
from serving_service.api.servicer import ServingServicer
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.fast_path.life import MergedRow, State
from serving_service.core.observing import Observers
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.service import Serving
from serving_service.observe.gauges import StateCollector
from serving_service.observe.loop_lag import LoopLag
from serving_service.observe.metrics import ServingMetrics
from serving_service.observe.tracing import Tracing
from tests.store_samples import make_base
from tests.unit.serving.scripted import ADMISSION, ScriptedEngine
from tests.unit.serving.test_serving_observing import samples

SERVICE = "graftwork.v1.ServingService"
OPERATOR = OPERATOR_PREFIX + secrets.token_hex(24)


@dataclass
class Running:
    home: Path
    store: AdapterStore
    engine: ScriptedEngine
    serving: Serving
    rpc: RpcServer
    channel: grpc.aio.Channel
    http: httpx.AsyncClient
    guarded: httpx.AsyncClient
    registry: CollectorRegistry
    spans: InMemorySpanExporter

    def generate(self, **metadata: str) -> "grpc.aio.UnaryStreamCall[object, object]":
        request = serving_pb2.GenerateRequest(prompt="a secret prompt")
        sent = (("authorization", f"Bearer {OPERATOR}"), *metadata.items())
        stub = serving_pb2_grpc.ServingServiceStub(self.channel)
        return stub.Generate(request, metadata=sent, timeout=30)  # type: ignore[no-any-return]

    def lose_store(self) -> None:
        """Takes the store's folder away, and asks for it, so that this is known."""
        (self.home / "store").rename(self.home / "elsewhere")
        with pytest.raises(StoreUnavailable), self.store.outage.question():
            self.store.ping()

    async def readiness(self) -> tuple[int, dict[str, dict[str, str]]]:
        answer = await self.http.get("/readyz")
        return answer.status_code, answer.json()

    async def health(self, service: str) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status  # type: ignore[no-any-return]


async def nobody_asks() -> None:
    raise AssertionError("health is told by the tests")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    key_file = tmp_path / "operator.key"
    key_file.write_text(OPERATOR)
    store, engine, registry = open_store(f"file://{tmp_path}/store"), ScriptedEngine(), CollectorRegistry()
    store.tenants.create("acme")
    spans = InMemorySpanExporter()
    tracing, metrics = Tracing(SimpleSpanProcessor(spans)), ServingMetrics(registry, 10)
    serving = Serving(
        store=store,
        base=read_base(make_base(tmp_path / "base")),
        engine=engine,
        cache_dir=tmp_path / "cache",
        disk_budget_bytes=10**9,
        host_budget_bytes=10**9,
        max_lora_rank=16,
        limits=PromptLimits(1000, 10),
        admission=ADMISSION,
        tenant_defaults=TenantPolicy(),
        observer=Observers([metrics, tracing]),
    )
    registry.register(StateCollector(serving))
    keyring, calls = Keyring(store, key_file), (CallMetrics(registry), tracing)
    rpc = await build_server(authenticator=keyring, host="127.0.0.1", port=0, service_names=[SERVICE], observers=calls)
    serving_pb2_grpc.add_ServingServiceServicer_to_server(ServingServicer(serving, nobody_asks), rpc.server)
    await rpc.server.start()
    lag = LoopLag(registry)
    servers = []
    for authenticator in (None, keyring):
        app = ObservedHttp(health_router(Probed(serving.readiness, registry, lag, authenticator)), calls, PATHS)
        servers.append(HttpServer(app, "127.0.0.1", 0, None, 1))
        await servers[-1].start()
    public, guarded = (httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") for server in servers)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}") as channel, public, guarded:
        yield Running(tmp_path, store, engine, serving, rpc, channel, public, guarded, registry, spans)
    for server in servers:
        await server.stop()
    await serving.stop()
    await rpc.server.stop(None)


async def test_readiness_tells_model_store_and_draining_apart(running: Running) -> None:
    """Loading is not ready; a store that is away is told and changes nothing; draining and a dead engine are not ready."""
    status, body = await running.readiness()
    assert (status, body["ready"], body["model"]["state"]) == (503, False, "loading")
    await running.serving.start()
    status, body = await running.readiness()
    assert (status, body["ready"], body["model"]["state"], body["store"]["state"]) == (200, True, "ready", "reachable")
    running.lose_store()
    status, body = await running.readiness()
    assert status == 200
    assert body["store"]["state"] == "away"
    assert "not there" in body["store"]["cause"]
    assert body["store"]["since"] > body["model"]["since"]
    running.engine.healthy = False
    status, body = await running.readiness()
    assert (status, body["model"]["state"]) == (503, "dead")
    since = body["model"]["since"]
    assert "cause" not in (await running.guarded.get("/readyz")).json()["store"], "it may name places and tenants"
    await running.serving.stop()
    status, body = await running.readiness()
    assert (status, body["model"]["state"], body["draining"]["state"]) == (503, "dead", "yes")
    assert body["model"]["since"] == since
    assert (await running.http.get("/healthz")).json()["status"] == "alive"


async def test_a_dead_engine_is_told_before_it_has_noticed_itself(running: Running) -> None:
    """Its process ends before its own books say so; a stop in between must not make that an orderly one."""
    await running.serving.start()
    running.serving.engine_died()
    assert running.engine.healthy
    await running.serving.stop()
    status, body = await running.readiness()
    assert (status, body["model"]["state"]) == (503, "dead")


async def test_a_drain_refuses_new_calls_with_a_time_and_finishes_old_ones(running: Running) -> None:
    await running.serving.start()
    running.engine.hold = asyncio.Event()
    old = running.generate()
    parts = aiter(old)
    assert (await anext(parts)).WhichOneof("part") == "started"
    running.serving.drain()
    draining = asyncio.create_task(running.serving.drained(30))
    new = running.generate()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await new.read()
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert int(dict(refused.value.trailing_metadata())["retry-after-ms"]) > 0
    assert (await running.readiness())[0] == 503
    assert not draining.done()
    running.engine.hold.set()
    rest = [part async for part in parts]
    assert rest[-1].WhichOneof("part") == "finished"
    await asyncio.wait_for(draining, 30)


async def test_health_is_told_for_the_server_and_for_each_service(running: Running) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    assert serving not in (await running.health(""), await running.health(SERVICE))
    await running.rpc.set_serving(True, SERVICE)
    assert (await running.health(""), await running.health(SERVICE)) == (
        health_pb2.HealthCheckResponse.NOT_SERVING,
        serving,
    )
    await running.rpc.set_serving(True)
    assert await running.health("") == serving
    watch = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == serving
    await running.rpc.set_serving(False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await running.health("graftwork.v1.Nothing")
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_without_a_key(running: Running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await anext(aiter(stub.ServerReflectionInfo(iter([request]))))
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_a_call_is_counted_traced_and_its_parent_kept(running: Running) -> None:
    await running.serving.start()
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    assert [part async for part in running.generate(traceparent=f"00-{trace}-{caller}-01")]
    stub = serving_pb2_grpc.ServingServiceStub(running.channel)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ListResidency(serving_pb2.ListResidencyRequest(), metadata=(("authorization", "Bearer gwop_x"),))
    for _ in range(2):
        assert (await running.http.get("/nowhere/a-path-of-the-callers-choice")).status_code == 404
    assert (await running.http.request("PROPFIND", "/readyz")).status_code == 405
    found = samples(running.registry)
    assert found["graft_rpc_calls_total", ("405", "HTTP", "other")] == 1
    assert found["graft_rpc_calls_total", ("Generate", "OK", SERVICE)] == 1
    assert found["graft_rpc_calls_total", ("ListResidency", "UNAUTHENTICATED", SERVICE)] == 1
    assert found["graft_rpc_calls_total", ("404", "HTTP", "other")] == 2
    assert found["graft_requests_total", ("-", "base", "ok")] == 1
    assert (found["graft_ready", ()], found["graft_engine_state", ("ready",)]) == (1, 1)
    spans = {span.name: span for span in running.spans.get_finished_spans()}
    call = spans[f"{SERVICE}/Generate"]
    assert call.context is not None
    assert call.parent is not None
    assert (f"{call.context.trace_id:032x}", f"{call.parent.span_id:016x}") == (trace, caller)
    whole = spans["generation"]
    assert whole.parent is not None
    assert whole.parent.span_id == call.context.span_id
    assert spans[f"{SERVICE}/ListResidency"].parent is None


async def test_guarded_metrics_are_the_operators(running: Running) -> None:
    tenant = running.store.tenants.issue_key("acme", "tests").secret
    for key, status in ((None, 401), ("gwop_wrong", 401), ("x", 401), (tenant, 403), (OPERATOR, 200)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = await running.guarded.get("/metrics", headers=headers)
        assert answer.status_code == status, key
        assert ("graft_ready" in answer.text) is (status == 200)
    assert (await running.guarded.get("/readyz")).status_code == 503, "probes have no key"
    assert "graft_ready" in (await running.http.get("/metrics")).text
    assert (await running.http.post("/metrics")).status_code == 405


async def graft_status(running: Running, key: str) -> dict[str, Any]:
    address = f"127.0.0.1:{running.rpc.port}"
    environment = {**os.environ, "GRAFT_SERVING": address, "GRAFT_API_KEY": key, "GRAFT_HOME": "/nonexistent"}
    command = (sys.executable, "-m", "graftwork.cli.main", "--json", "status")
    status = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(status.communicate(), 60)
    return json.loads(out)["serving_parts"]  # type: ignore[no-any-return]


async def test_graft_status_says_what_is_wrong_and_to_whom(running: Running) -> None:
    """A tenant learns that the store is away, the operator also why."""
    await running.serving.start()
    tenant = running.store.tenants.issue_key("acme", "tests").secret
    running.lose_store()
    told = await graft_status(running, OPERATOR)
    assert (told["model"]["state"], told["draining"]["state"]) == ("ready", "no")
    assert told["store"]["state"] == "away"
    assert "not there" in told["store"]["cause"]
    stub = serving_pb2_grpc.ServingServiceStub(running.channel)
    info = await stub.GetServingInfo(
        serving_pb2.GetServingInfoRequest(), metadata=(("authorization", f"Bearer {tenant}"),)
    )
    assert (info.ready, info.store.state, info.store.cause) == (True, "away", "")


async def test_graft_promote_says_what_a_service_without_room_lacks(running: Running) -> None:
    await running.serving.start()
    address = f"127.0.0.1:{running.rpc.port}"
    environment = {**os.environ, "GRAFT_SERVING": address, "GRAFT_API_KEY": OPERATOR, "GRAFT_HOME": "/nonexistent"}
    for command in ("promote", "demote"):
        line = (sys.executable, "-m", "graftwork.cli.main", command, "task", "--tenant", "acme")
        ran = await asyncio.create_subprocess_exec(*line, env=environment, stderr=asyncio.subprocess.PIPE)
        _, said = await asyncio.wait_for(ran.communicate(), 60)
        assert ran.returncode
        assert b"GRAFT_SERVING_MERGED_BUDGET_BYTES" in said.replace(b"\n", b"")


@pytest.mark.parametrize("state", list(State))
def test_every_state_of_a_merged_version_is_told_and_shown(state: State) -> None:
    now = datetime.now(UTC)
    row = MergedRow(
        "acme",
        "task",
        "1" * 64,
        state,
        now,
        5,
        1,
        2,
        now,
        ("operator", "task:prod"),
        "because",
        3,
        12.0,
        4.5,
        "much asked for",
    )
    told = merged_of(row)
    assert told.state
    assert (told.bytes, told.users, told.uses, told.failures) == (5, 1, 2, 3)
    assert told.promoted_because == "much asked for"
    console = Console(width=300, record=True)
    console.print(merged_table([told]))
    shown = console.export_text()
    assert all(text in shown for text in (state.value, "because (again in 12 s)", "operator, task:prod", "0 s ago"))
