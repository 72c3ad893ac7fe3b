"""An operator takes a node out of traffic without ending it, and back: over a real socket, with a scripted engine."""

import asyncio
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adapter_store import open_store
from graftwork import Client, RemoteForbidden, RemoteInvalid, RemotePrecondition, RemoteUnavailable
from serving_service.core.admission_limits import TenantPolicy
from tests.unit.serving.scripted import ScriptedEngine
from tests.unit.serving.scripted_service import OPERATOR, REGISTRY, SERVING, ScriptedService

UP, DOWN = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ScriptedService]:
    running = ScriptedService(tmp_path, open_store(f"file://{tmp_path}/store"), ScriptedEngine(), TenantPolicy())
    yield running
    running.stop()


@pytest.fixture
def client(service: ScriptedService) -> Iterator[Client]:
    with Client(trainer=service.address, serving=service.address, api_key=OPERATOR, retries=0) as made:
        yield made


@pytest.fixture
def go_on(service: ScriptedService) -> Callable[[], None]:
    """Requests stay under way after their first word until this is called."""

    async def event() -> asyncio.Event:
        return asyncio.Event()

    service.engine.hold = hold = service.run(event())
    return lambda: service.loop.call_soon_threadsafe(hold.set)


def health(service: ScriptedService) -> dict[str, int]:
    with grpc.insecure_channel(service.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return {
            name: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30).status
            for name in ("", SERVING, REGISTRY)
        }


def test_a_drained_node_refuses_new_requests_and_finishes_old_ones(
    service: ScriptedService, client: Client, go_on: Callable[[], None]
) -> None:
    pieces = iter(client.stream("x"))
    assert next(pieces).text == "a"
    drained = client.serving.drain()
    assert (drained.draining, drained.running) == (True, 1)
    assert health(service) == {"": DOWN, SERVING: DOWN, REGISTRY: UP}
    assert not client.serving.info().ready
    with pytest.raises(RemoteUnavailable, match="takes no requests now"):
        client.generate("x")
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(client.serving.drain, wait_seconds=30)
        go_on()
        assert [piece.text for piece in pieces] == ["b"]
        assert waiting.result().running == 0


def test_the_wait_has_an_end(client: Client, go_on: Callable[[], None]) -> None:
    pieces = iter(client.stream("x"))
    next(pieces)
    assert client.serving.drain(wait_seconds=0.05).running == 1
    go_on()
    list(pieces)


def test_a_wait_that_a_return_ends_says_how_it_is_now(
    service: ScriptedService, client: Client, go_on: Callable[[], None]
) -> None:
    pieces = iter(client.stream("x"))
    next(pieces)
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(client.serving.drain, wait_seconds=30)
        while health(service)[SERVING] == UP:
            pass
        client.serving.resume()
        told = waiting.result()
    assert (told.draining, told.running) == (False, 1)
    assert client.serving.info().ready, "the wait has not drained it once more"
    go_on()
    list(pieces)


def test_it_takes_requests_again(service: ScriptedService, client: Client) -> None:
    client.serving.drain()
    resumed = client.serving.resume()
    assert (resumed.draining, resumed.running) == (False, 0)
    assert health(service) == {"": UP, SERVING: UP, REGISTRY: UP}
    assert client.serving.info().ready
    assert client.generate("x").text == "ab"


def test_one_that_stops_does_not(service: ScriptedService, client: Client) -> None:
    service.end()
    with pytest.raises(RemotePrecondition, match="stopping"):
        client.serving.resume()
    with pytest.raises(RemoteUnavailable):
        client.generate("x")


def test_both_are_in_the_audit_log(client: Client) -> None:
    client.serving.drain()
    client.serving.drain()
    client.serving.resume()
    entries = [entry for entry in client.audit.list() if entry.action == "Drain"]
    assert all(entry.target.startswith("nodes/") for entry in entries)
    told = [{change.field: (change.before, change.after) for change in entry.changes} for entry in entries]
    assert told == [{"draining": ("yes", "no")}, {}, {"draining": ("no", "yes")}], "newest first"


@pytest.mark.parametrize("seconds", [-1.0, 3601.0, math.nan, math.inf])
def test_a_wait_that_is_none_is_refused_and_drains_nothing(client: Client, seconds: float) -> None:
    with pytest.raises(RemoteInvalid, match="wait_seconds"):
        client.serving.drain(wait_seconds=seconds)
    assert client.serving.info().ready


def test_a_tenants_key_drains_nothing(service: ScriptedService, client: Client) -> None:
    client.tenants.create("acme")
    key = client.tenants.create_key("acme", "tests").secret
    with (
        Client(trainer=service.address, serving=service.address, api_key=key) as tenant,
        pytest.raises(RemoteForbidden),
    ):
        tenant.serving.drain()
    assert client.serving.info().ready
