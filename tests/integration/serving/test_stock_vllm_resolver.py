"""A stock `vllm serve` with the resolver plugin answers with adapters of a store as with the same files given to it by hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapter_store import AdapterStore, Provenance, open_store, read_base
from tests import store_samples
from tests.integration.serving.serving_world import make_adapter, make_backbone
from tests.integration.serving.stock_server import StockServer, install_plugin

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@dataclass(frozen=True)
class World:
    """One server; `files` are the adapters' folders, `versions` what they are in the store."""

    server: StockServer
    store: AdapterStore
    root: Path
    versions: dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("stock")
    store, backbone = open_store(f"file://{root}/store"), make_backbone(root / "backbone")
    base, made, versions = read_base(backbone), Provenance(made_by="registered by a test"), {}
    names = ("one", "two", "three")
    files = {name: make_adapter(backbone, root / name, rank=4, seed=seed) for seed, name in enumerate(names)}
    for tenant in ("acme", "bloom"):
        store.tenants.create(tenant)
    for name, folder in files.items():
        versions[name] = store.versions.publish("acme", "support", folder, base=base, made=made).version
        store.versions.publish("bloom", "support", folder, base=base, made=made)
    for tenant in ("acme", "bloom"):
        store.aliases.set(tenant, "support", "prod", versions["one"], by="test", reason="")
    foreign = store_samples.make_base(root / "other-base")
    unfit = store.versions.publish(
        "acme", "foreign", store_samples.make_adapter(root / "unfit"), base=read_base(foreign), made=made
    )
    store.aliases.set("acme", "foreign", "prod", unfit.version, by="test", reason="")
    settings = {
        "GRAFT_RESOLVER_STORE_URL": f"file://{root}/store",
        "GRAFT_RESOLVER_TENANTS": "acme",
        "GRAFT_RESOLVER_CACHE_DIR": str(root / "cache"),
    }
    server = StockServer(backbone, root, files, install_plugin(root), settings)
    try:
        server.wait(200)
        yield World(server, store, root, versions)
    finally:
        server.stop()


def test_an_adapter_of_the_store_answers_as_the_same_files_given_by_hand(world: World) -> None:
    by_hand = {name: world.server.text(name) for name in ("base", "one", "two", "three")}
    assert len(set(by_hand.values())) == 4, "adapters that change nothing would prove nothing"
    assert world.server.text("acme/support") == by_hand["one"]
    for name, version in world.versions.items():
        assert world.server.text(f"acme/support@{version}") == by_hand[name]


def test_an_alias_is_read_again_once_its_name_was_unloaded(world: World) -> None:
    old = world.server.text("acme/support")
    world.store.aliases.set("acme", "support", "prod", world.versions["two"], by="test", reason="")
    assert world.server.text("acme/support") == old  # what the plugin's page says of stock servers
    world.server.unload("acme/support")
    # The same prompt: blocks of the old version in the prefix cache would give the old answer, or a mix.
    assert world.server.text("acme/support") == world.server.text("two") != old


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("acme/nothing", id="no such adapter"),
        pytest.param("bloom/support", id="another tenant's"),
        pytest.param("acme/foreign", id="made for another backbone"),
        pytest.param("acme/../bloom/support", id="no name"),
        pytest.param("nothing", id="no tenant"),
    ],
)
def test_what_must_not_be_served_does_not_exist(world: World, model: str) -> None:
    answer = world.server.complete(model)
    assert answer.status_code == 404, answer.text
    assert str(world.root) not in answer.text


def test_a_damaged_version_is_an_error_and_not_a_missing_one(world: World) -> None:
    manifest = world.store.versions.get("acme", "support", world.versions["three"])
    world.store.aliases.set("acme", "support", "damaged", manifest.version, by="test", reason="")
    blob = next((world.root / "store").rglob(manifest.file("adapter_model.safetensors").sha256))
    cached = next((world.root / "cache").rglob(f"{manifest.version}/adapter_model.safetensors"))
    for file in (blob, cached):
        good = file.read_bytes()
        file.chmod(0o600)
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert world.server.complete("acme/support:damaged").status_code == 500
    assert world.server.complete("base").status_code == 200
