"""Canaries and the way back through the real service: requests reach the versions that an alias names now, and no other."""

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.serving.serving_world import Answer, Service, World, make_adapter, wait_until

pytestmark = pytest.mark.slow

PROMPT, TOKENS = "name:Ada city:Paris", 12
MANY = 40
"""Requests. A version is drawn for each by itself: of an even split, all come out the same once in 10^11 times."""
WHO: Any = {"by": "tests", "reason": "tests"}


@dataclass
class Release:
    """An adapter of acme with three versions, whose answers all differ; `prod` names the first.

    Attributes:
        texts: each version's answer to PROMPT, by its digest and in the order of publishing.
    """

    service: Service
    adapter: str
    texts: dict[str, str]

    @property
    def versions(self) -> list[str]:
        return list(self.texts)

    @property
    def alias(self) -> tuple[str, str, str]:
        return "acme", self.adapter, "prod"

    def ask(self) -> Answer:
        return self.service.generate("acme", self.adapter, PROMPT, max_tokens=TOKENS)

    def reached(self) -> set[str]:
        """Sends many requests, some at once, and returns the versions that answered; each gave its own answer."""
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: self.ask(), range(MANY)))
        for answer in answers:
            assert answer.text == self.texts[answer.started.version]
        return {answer.started.version for answer in answers}

    def await_reached(self, *versions: str) -> None:
        """Waits until an alias's move is known; from then on nothing else is reached."""
        wait_until(f"{versions} answer, and they only", lambda: self.reached() == set(versions), 60)
        assert self.reached() == set(versions)


@pytest.fixture
def release(service: Service, world: World, reference: Callable[..., str], request: pytest.FixtureRequest) -> Release:
    adapter = f"canary-{zlib.crc32(request.node.name.encode())}"
    texts = {}
    for seed in (61, 62, 63):
        name = f"{adapter}-{seed}"
        world.folders[name] = make_adapter(world.backbone, world.root / "adapters" / name, rank=8, seed=seed)
        texts[world.publish("acme", adapter, world.folders[name]).version] = reference(name, PROMPT, TOKENS)
    assert len(set(texts.values())) == 3
    world.store.aliases.set("acme", adapter, "prod", next(iter(texts)), **WHO)
    return Release(service, adapter, texts)


def test_a_split_sends_requests_to_its_versions_and_to_nothing_else(release: Release, world: World) -> None:
    first, *canaries = release.versions
    release.await_reached(first)
    world.store.aliases.split(*release.alias, dict.fromkeys(canaries, 50), **WHO)
    release.await_reached(*canaries)


def test_rolling_back_brings_every_request_to_what_answered_before(release: Release, world: World) -> None:
    """From a release to the canary that it came from, from there to the version before, and from a later release to that again."""
    first, second, third = release.versions
    aliases = world.store.aliases
    release.await_reached(first)
    aliases.split(*release.alias, {first: 50, second: 50}, **WHO)
    release.await_reached(first, second)
    aliases.set(*release.alias, second, **WHO)
    release.await_reached(second)
    aliases.roll_back(*release.alias, **WHO)
    release.await_reached(first, second)
    aliases.roll_back(*release.alias, **WHO)
    release.await_reached(first)
    aliases.set(*release.alias, third, **WHO)
    release.await_reached(third)
    aliases.roll_back(*release.alias, **WHO)
    release.await_reached(first)
