"""Whose key/value blocks a prompt finds again: its own tenant's, of the same version of an adapter, whatever the transport.

A block of another tenant's would tell, by how soon a first token comes, what that tenant had sent before.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.integration.serving.serving_world import Service, World, make_adapter, wait_until

pytestmark = pytest.mark.slow

LETTERS = 400
"""Of a prompt, with a token for each: three whole blocks on a CPU, where they are largest."""


class Found(NamedTuple):
    """What a request found, in tokens."""

    cached: int
    prompt: int
    block: int


class Telling(Service):
    """The service, which tells what requests find in the prefix cache."""

    module = "tests.integration.serving.cached_tokens_program"

    def told(self) -> list[Found]:
        return [Found(*json.loads(line)) for line in (self.home / "cached").read_text().splitlines()]

    def post(self, tenant: str, path: str, **body: Any) -> None:
        sent = {"authorization": f"Bearer {self.world.keys[tenant]}"}
        body |= {"temperature": 0, "max_tokens": 2}
        httpx.post(f"{self.url}/v1/{path}", json=body, headers=sent, timeout=120).raise_for_status()


Way = Callable[[Telling, str, str, str], object]
"""Sends a tenant's prompt to a model."""


def by_grpc(service: Telling, tenant: str, model: str, prompt: str) -> None:
    service.generate(tenant, model, prompt, max_tokens=2)


def by_completion(service: Telling, tenant: str, model: str, prompt: str) -> None:
    service.post(tenant, "completions", model=model, prompt=prompt)


def by_chat(service: Telling, tenant: str, model: str, prompt: str) -> None:
    service.post(tenant, "chat/completions", model=model, messages=[{"role": "user", "content": prompt}])


WAYS: tuple[Way, ...] = (by_grpc, by_completion, by_chat)


@pytest.fixture(scope="module")
def telling(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telling]:
    service = Telling(world, tmp_path_factory.mktemp("telling"))
    try:
        service.ready()
        yield service
    finally:
        service.close()


def found(service: Telling, way: Way, tenant: str, model: str, prompt: str) -> int:
    """Sends a prompt; returns how many blocks of it were there: all that come before its last token, or none."""
    before = len(service.told())
    way(service, tenant, model, prompt)
    (told,) = service.told()[before:]
    whole = (told.prompt - 1) // told.block
    assert whole >= 3
    assert told.cached in (0, whole * told.block)
    return told.cached // told.block


def prompt_of(name: str) -> str:
    """A prompt that no other name has the first block of."""
    return (f"{name} " * LETTERS)[:LETTERS]


@pytest.mark.parametrize("way", WAYS)
def test_a_tenant_finds_its_own_blocks_of_the_base_and_nobody_elses(telling: Telling, way: Way) -> None:
    prompt = prompt_of(f"base {way.__name__}")
    assert not found(telling, way, "acme", "", prompt), "the first time"
    assert found(telling, way, "acme", "", prompt)
    assert not found(telling, way, "globex", "", prompt)
    assert found(telling, way, "globex", "", prompt), "its own from now on"


def test_a_tenant_finds_its_blocks_over_both_transports_and_nobody_elses_over_either(telling: Telling) -> None:
    prompt = prompt_of("both")
    assert not found(telling, by_grpc, "acme", "", prompt)
    assert found(telling, by_completion, "acme", "", prompt)
    assert not found(telling, by_completion, "globex", "", prompt)
    assert found(telling, by_grpc, "globex", "", prompt)
    assert not found(telling, by_grpc, "initech", "", prompt)


def test_a_version_finds_its_own_blocks_only(telling: Telling, world: World) -> None:
    """Not those of the version that its name meant before, nor the base's, nor those of another tenant's adapter that is the same to
    the byte and has the same name."""
    first, second = (
        make_adapter(world.backbone, world.root / "adapters" / f"found-{seed}", rank=8, seed=seed) for seed in (51, 52)
    )
    old = world.publish("acme", "found", first).version
    prompts = {way: prompt_of(f"version {way.__name__}") for way in WAYS}
    for way, prompt in prompts.items():
        assert not found(telling, way, "acme", "", prompt)
        assert not found(telling, way, "acme", "found", prompt)
        assert found(telling, way, "acme", "found", prompt)
    assert world.publish("globex", "found", first).version == old
    for way, prompt in prompts.items():
        assert not found(telling, way, "globex", "found", prompt)
    new = world.publish("acme", "found", second).version

    def moved() -> bool:
        return telling.generate("acme", "found", "x", max_tokens=1).started.version == new

    wait_until("the alias's new target is used", moved, 30)
    for way, prompt in prompts.items():
        assert not found(telling, way, "acme", "found", prompt)
        assert found(telling, way, "acme", "found", prompt)
        assert found(telling, way, "acme", f"found@{old}", prompt), "what was not found was there all the time"
