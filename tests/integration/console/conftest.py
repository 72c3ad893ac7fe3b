"""A registry with two tenants and an adapter of three versions, and a console on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from graftwork.console.app import create_app
from graftwork.console.settings import ConsoleSettings
from graftwork.rpc.auth import OPERATOR_PREFIX
from tests.integration.console.console_browser import Browser
from tests.integration.registry.registry_process import OPERATOR, RegistryProcess
from tests.store_samples import make_adapter

ADAPTER = "tenants/acme/adapters/support"


@dataclass(frozen=True)
class World:
    """What the tests look at.

    Attributes:
        registry: a real process.
        keys: of the tenants, by name.
        versions: digests, oldest first; `prod` names the second, and named the first before.
        settings: of a console that finds the registry.
    """

    registry: RegistryProcess
    keys: dict[str, str]
    versions: list[str]
    settings: ConsoleSettings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    registry = RegistryProcess(tmp_path_factory.mktemp("console-registry"))
    folder = tmp_path_factory.mktemp("console-adapters")
    with registry.client() as client:
        keys = {}
        for tenant in ("acme", "bloom"):
            client.create_tenant(tenant)
            keys[tenant] = client.create_key(tenant, "first key").secret
        versions = [_registered(registry, folder / str(seed), seed) for seed in (1, 2, 3)]
        for digest in versions[:2]:
            client.set_alias(f"{ADAPTER}/aliases/prod", digest, reason=f"release of {digest[:6]}")
    settings = ConsoleSettings(trainer=registry.address, serving="127.0.0.1:1")
    yield World(registry, keys, versions, settings)
    assert registry.stop() == 0


def _registered(registry: RegistryProcess, folder: Path, seed: int) -> str:
    with registry.client() as client:
        made = client.register_adapter("acme", "support", make_adapter(folder, seed))
    return made.version.name.rsplit("/", 1)[1]


@pytest.fixture
def visit(world: World) -> Iterator[Callable[[], Browser]]:
    """Opens browsers on one console, each without a cookie."""
    app = create_app(world.settings)
    opened: list[TestClient] = []

    def open_browser() -> Browser:
        opened.append(TestClient(app, follow_redirects=False))
        return Browser(opened[-1].__enter__())

    yield open_browser
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def operator(visit: Callable[[], Browser]) -> Browser:
    browser = visit()
    assert browser.sign_in(OPERATOR).status_code == 303
    return browser


@pytest.fixture
def viewer(visit: Callable[[], Browser], world: World) -> Browser:
    key_file, key = world.registry.key_file, f"{OPERATOR_PREFIX}looker"
    if key not in key_file.read_text():
        key_file.write_text(f"{key_file.read_text()}{key} viewer looker\n")
    browser = visit()
    assert browser.sign_in(key).status_code == 303
    return browser


@pytest.fixture
def acme(visit: Callable[[], Browser], world: World) -> Browser:
    browser = visit()
    assert browser.sign_in(world.keys["acme"]).status_code == 303
    return browser
