"""Limits, turns and deadlines through the real service: who is over a limit is told when to come back, others do not notice."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import grpc
import pytest

from graftwork.client.client import Client
from graftwork.client.errors import RemoteExhausted
from graftwork.rpc.status import RETRY_AFTER_KEY
from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Answer, Service, World, make_adapter, wait_until

pytestmark = pytest.mark.slow

PLACES = 16
"""Requests that run at once in these tests' service."""
LONG = 400
"""Tokens of an answer that does not end by itself: seconds, on any machine."""


@pytest.fixture
def tenant(world: World, request: pytest.FixtureRequest) -> str:
    """A tenant of this test's own, with acme's adapter, so that limits and what was used are nobody else's."""
    name = "t" + request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    world.store.tenants.create(name)
    world.keys[name] = world.store.tenants.issue_key(name, "tests").secret
    world.folders[name] = world.folders["acme"]
    world.versions[name] = world.publish(name, "task", world.folders["acme"])
    return name


@pytest.fixture(scope="session")
def endless(reference: Callable[..., str]) -> str:
    """A prompt that acme's adapter goes on about."""
    return next(prompt for prompt in map(str, range(200)) if len(reference("acme", prompt, LONG)) >= LONG)


@contextmanager
def running(service: Service, tenant: str, prompt: str) -> Iterator[Any]:
    """A request that generates for as long as the block takes, or its full length."""
    stream = service.start_generate(tenant, "task", prompt, max_tokens=LONG)
    next(stream)
    try:
        yield stream
    finally:
        stream.cancel()


def refused(call: Callable[[], object]) -> float:
    """Returns the retry time in seconds of a call that is over a limit."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
    trailing = dict(caught.value.trailing_metadata())
    return int(trailing[RETRY_AFTER_KEY]) / 1e3


def test_over_requests_a_minute(service: Service, world: World, tenant: str) -> None:
    """The third of two allowed requests is refused with a time; another tenant's next one is answered."""
    world.store.tenants.update(tenant, limits={"requests_per_minute": 2})
    for _ in range(2):
        service.generate(tenant, "task", "hello", max_tokens=2)
    assert 0 < refused(lambda: service.generate(tenant, "task", "hello", max_tokens=2)) <= 30
    service.generate("acme", "task", "hello", max_tokens=2)
    address = service.address_file.read_text().strip()
    with Client(address, address, world.keys[tenant]) as client, pytest.raises(RemoteExhausted) as caught:
        client.generate(serving_pb2.GenerateRequest(model="task", prompt="hello"))
    assert caught.value.retry_after_seconds is not None
    assert 0 < caught.value.retry_after_seconds <= 30
    assert caught.value.request_id
    operator = serving_pb2.GenerateRequest(parent=f"tenants/{tenant}", model="task", prompt="hello")
    Answer.read(
        service.stub.Generate(operator, metadata=service.as_operator())
    )  # the limit is its callers', not its adapter's


def test_over_tokens_a_minute(service: Service, world: World, tenant: str) -> None:
    """Prompt and answer count together, as they were in truth and not as they were estimated."""
    world.store.tenants.update(tenant, limits={"tokens_per_minute": 60})
    first = service.generate(tenant, "task", "x" * 50, max_tokens=20)
    used = first.finished.usage.prompt_tokens + first.finished.usage.completion_tokens
    wait = refused(lambda: service.generate(tenant, "task", "x", max_tokens=1))
    assert used - 60 - 5 <= wait <= used - 60 + 60


def test_concurrency_and_queue_length(service: Service, world: World, tenant: str, endless: str) -> None:
    """With one at once and one waiting, the third is refused; a waiting call that is cancelled frees its place."""
    world.store.tenants.update(tenant, limits={"concurrency": 1, "queue_length": 1})
    with running(service, tenant, endless) as stream:
        started = [service.start_generate(tenant, "task", "second", max_tokens=4)]

        def second_waits() -> bool:
            if started[-1].done():  # refused, because a try of ours had the place
                started.append(service.start_generate(tenant, "task", "second", max_tokens=4))
            return _is_refused(service, tenant)

        wait_until("the second waits", second_waits, 20)
        service.generate("acme", "task", "hello", max_tokens=2)
        started[-1].cancel()
        with ThreadPoolExecutor(1) as pool:

            def waits_and_is_answered() -> Answer:
                return wait_until("its place is free", lambda: _answered(service, tenant), 40)

            third = pool.submit(waits_and_is_answered)
            wait_until("the third waits", lambda: _is_refused(service, tenant) or third.done(), 20)
            stream.cancel()
            assert third.result().finished.timings.queue_ms > 0


def _is_refused(service: Service, tenant: str) -> bool:
    """Tries with hardly any patience, so that a try which would wait does not take the place that it asks about."""
    sampling = serving_pb2.Sampling(temperature=0, max_tokens=1)
    request = serving_pb2.GenerateRequest(model="task", prompt="try", sampling=sampling)
    try:
        list(service.stub.Generate(request, metadata=service.as_tenant(tenant), timeout=0.2))
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


def _answered(service: Service, tenant: str) -> Answer | None:
    try:
        return service.generate(tenant, "task", "third", max_tokens=4)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return None
        raise


def test_a_deadline_passes_in_the_queue(service: Service, world: World, tenant: str, endless: str) -> None:
    """A call whose time is over leaves the queue; when its turn would have come, the next one has it."""
    world.store.tenants.update(tenant, limits={"concurrency": 1})
    with running(service, tenant, endless) as stream:
        sampling = serving_pb2.Sampling(temperature=0, max_tokens=4)
        request = serving_pb2.GenerateRequest(model="task", prompt="late", sampling=sampling)
        late = service.stub.Generate(request, metadata=service.as_tenant(tenant), timeout=0.3)
        with pytest.raises(grpc.RpcError) as caught:
            list(late)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        stream.cancel()
        assert service.generate(tenant, "task", "in time", max_tokens=4).text


def test_a_deadline_ends_a_running_answer(service: Service, world: World, tenant: str, endless: str) -> None:
    """The generation stops and gives its place back: with one at once, the next request need not wait for its end."""
    world.store.tenants.update(tenant, limits={"concurrency": 1})
    sampling = serving_pb2.Sampling(temperature=0, max_tokens=LONG)
    request = serving_pb2.GenerateRequest(model="task", prompt=endless, sampling=sampling)
    call = service.stub.Generate(request, metadata=service.as_tenant(tenant), timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    service.generate(tenant, "task", "next", max_tokens=2)
    name = f"{tenant}/task@{world.versions[tenant].version}"
    wait_until("nothing uses the adapter", lambda: not service.residents()[name].users, 10)


def test_more_adapters_at_once_than_slots(service: Service, world: World, reference: Callable[..., str]) -> None:
    """Six adapters over two slots, five requests each at once, beside the base: every answer is its own adapter's."""
    names = [f"many{number}" for number in range(6)]
    for number, name in enumerate(names):
        world.folders[name] = make_adapter(world.backbone, world.root / "adapters" / name, rank=8, seed=900 + number)
        world.versions[name] = world.publish("acme", name, world.folders[name])
    wanted = [(name, f"{name} {turn}") for turn in range(5) for name in (*names, "")]
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda row: service.generate("acme", *row, max_tokens=12), wanted))
    for (name, prompt), answer in zip(wanted, answers, strict=True):
        assert answer.text == reference(name or None, prompt, 12), (name, prompt)
    assert max(answer.finished.timings.queue_ms for answer in answers) > 0


def test_a_flood_does_not_starve_another_tenant(service: Service, world: World, tenant: str) -> None:
    """While one tenant keeps six times as many requests in the service as run at once, another's are admitted ahead of those
    that waited when they came. By the service's own times: a loaded machine makes this process late, not the order wrong."""
    stop, flooded = threading.Event(), []

    def flood() -> None:
        while not stop.is_set():
            flooded.append(service.generate(tenant, "task", "flood", max_tokens=24))

    with ThreadPoolExecutor(96) as pool:
        floods = [pool.submit(flood) for _ in range(96)]
        try:
            wait_until("the flood queues", lambda: any(one.finished.timings.queue_ms > 50 for one in flooded), 60)
            quiet = [service.generate("globex", "task", f"quiet {turn}", max_tokens=4) for turn in range(5)]
        finally:
            stop.set()
        for one in floods:
            one.result()
    waits = _waits(service, flooded)
    for came, admitted in _waits(service, quiet):
        passed = sum(arrived < came and came < began < admitted for arrived, began in waits)
        assert passed <= PLACES, "the flood's queue of 80 went first"


def _waits(service: Service, answers: list[Answer]) -> list[tuple[float, float]]:
    """When each request came to the queue and when it left it, in seconds of the service's wall clock."""
    ids = {answer.started.request_id for answer in answers}

    def calls() -> list[dict[str, Any]]:
        log = (service.home / "log").read_text()
        lines = (json.loads(line) for line in log.splitlines() if '"generation_id"' in line and line.endswith("}"))
        return [line for line in lines if line["generation_id"] in ids]

    wait_until("each call's line is in the log", lambda: len(calls()) == len(ids), 30)
    made = []
    for call in calls():
        ended = datetime.fromisoformat(call["timestamp"]).timestamp()
        came = ended - (call["total_ms"] - call["resolve_ms"]) / 1e3
        made.append((came, came + call["queue_ms"] / 1e3))
    return made
