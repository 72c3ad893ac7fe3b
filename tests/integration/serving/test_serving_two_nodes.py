"""Two nodes of one store: what an operator changes in one place holds at both, within the time that is promised."""

import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Service, World, make_adapter

pytestmark = pytest.mark.slow

PROMPT, TOKENS = "name:Ada city:Paris", 12
PROMISED_S = 2.0
"""After which a move of an alias has reached every node."""


@pytest.fixture(scope="module")
def other(run_service: Callable[..., Service]) -> Iterator[Service]:
    """The second node; the shared service is the first."""
    made = run_service().ready()
    yield made
    made.close()


def test_whoever_asks_two_seconds_after_an_alias_moved_gets_the_new_version_of_every_node(
    service: Service, other: Service, world: World, fresh: str, reference: Callable[..., str]
) -> None:
    nodes, old, later = (service, other), world.versions[fresh], f"{fresh}-later"
    world.folders[later] = make_adapter(world.backbone, world.root / "adapters" / later, rank=8, seed=77)
    texts = {old.version: reference(fresh, PROMPT, TOKENS)}
    new_text = reference(later, PROMPT, TOKENS)
    assert new_text != texts[old.version]
    for node in nodes:  # known, loaded, and the alias's answer kept, as under traffic
        assert node.generate("acme", fresh, PROMPT, max_tokens=TOKENS).text == texts[old.version]
    new = world.publish("acme", fresh, world.folders[later])  # moves `prod`, too
    moved = time.monotonic()
    texts[new.version] = new_text
    for node in nodes:
        while True:
            sent = time.monotonic()
            answer = node.generate("acme", fresh, PROMPT, max_tokens=TOKENS)
            assert answer.text == texts[answer.started.version], "each version says its own"
            if answer.started.version == new.version:
                break
            assert sent - moved < PROMISED_S
        for _ in range(5):
            assert node.generate("acme", fresh, PROMPT, max_tokens=TOKENS).started.version == new.version, "no way back"


def test_one_drained_node_leaves_the_other_one_as_it_was(service: Service, other: Service) -> None:
    def drain(resume: bool) -> int:
        request = serving_pb2.DrainRequest(resume=resume)
        other.stub.Drain(request, metadata=other.as_operator(), timeout=30)
        return other.health()

    assert drain(False) == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError, match="takes no requests now"):
        other.generate("acme", "task", PROMPT, max_tokens=TOKENS)
    assert service.health() == health_pb2.HealthCheckResponse.SERVING
    text = service.generate("acme", "task", PROMPT, max_tokens=TOKENS).text
    assert drain(True) == health_pb2.HealthCheckResponse.SERVING
    assert other.generate("acme", "task", PROMPT, max_tokens=TOKENS).text == text
