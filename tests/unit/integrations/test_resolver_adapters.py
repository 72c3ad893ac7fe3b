"""What a stock server's plugin finds in a store: which names, whose adapters, only what fits and is sound. Without vLLM."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapter_store import AdapterStore, Provenance, VersionManifest, open_store, read_base
from adapter_store.errors import CorruptBlob, InvalidName, NotFound, StoreMisconfigured
from graftwork.signing import SigningKey
from graftwork_vllm_resolver import plugin
from graftwork_vllm_resolver.adapters import Adapters, ModelName, NotServed
from graftwork_vllm_resolver.settings import ResolverSettings
from tests.store_samples import make_adapter, make_base

DIGEST = "0123456789abcdef" * 4


class World:
    """A store with adapters of two tenants, and the backbone that they fit."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, f"file://{root}/store"
        self.store: AdapterStore = open_store(self.url)
        self.base = make_base(root / "base")
        for tenant in ("acme", "bloom"):
            self.store.tenants.create(tenant)

    def publish(self, tenant: str, adapter: str, seed: int, base: Path | None = None) -> VersionManifest:
        folder = make_adapter(self.root / f"{tenant}-{adapter}-{seed}", seed)
        made = self.store.versions.publish(
            tenant, adapter, folder, base=read_base(base or self.base), made=Provenance(made_by="registered by a test")
        )
        self.store.aliases.set(tenant, adapter, "prod", made.version, by="test", reason="")
        return made

    def adapters(self, **settings: object) -> Adapters:
        given = {"store_url": self.url, "tenants": "acme", "cache_dir": self.root / "cache"} | settings
        return Adapters(ResolverSettings(**given))  # type: ignore[arg-type]

    def fetch(self, model: str, **settings: object) -> str:
        found = self.adapters(**settings).fetch(str(self.base), model)
        assert found is not None
        assert {path.name for path in found.folder.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
        assert found.manifest.version in str(found.folder)
        return found.manifest.version


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_names_are_read_in_three_forms_and_others_left_to_other_resolvers() -> None:
    assert ModelName.parse("acme/support") == ModelName("acme", "support")
    assert ModelName.parse("acme/support:canary") == ModelName("acme", "support", alias="canary")
    assert ModelName.parse(f"acme/support@{DIGEST}") == ModelName("acme", "support", version=DIGEST)
    assert ModelName.parse("support") is None


@pytest.mark.parametrize(
    "name",
    ["acme/", "/support", "acme/../x", "acme/support:", "acme/support@abc", "Acme/support", "acme/a/b", "../etc/x"],
)
def test_what_is_no_name_reaches_no_path(world: World, name: str) -> None:
    with pytest.raises(InvalidName):
        world.adapters().fetch(str(world.base), name)
    assert not (world.root / "cache").exists()


def test_an_alias_means_its_version_of_now_and_a_digest_always_the_same(world: World) -> None:
    old = world.publish("acme", "support", 1).version
    assert world.fetch("acme/support") == old
    new = world.publish("acme", "support", 2).version
    assert world.fetch("acme/support") == world.fetch("acme/support:prod") == new
    assert world.fetch(f"acme/support@{old}") == old


def test_adapters_of_tenants_that_are_not_named_do_not_exist(world: World) -> None:
    version = world.publish("bloom", "greeting", 1).version
    with pytest.raises(NotFound):
        world.fetch("bloom/greeting")
    assert world.fetch("bloom/greeting", tenants="acme, bloom") == version
    assert world.fetch("bloom/greeting", tenants="*") == version


def test_a_disabled_tenants_adapters_are_not_served(world: World) -> None:
    world.publish("acme", "support", 1)
    world.store.tenants.set_disabled("acme", True)
    with pytest.raises(NotServed, match="disabled"):
        world.fetch("acme/support")


def test_an_adapter_for_another_backbone_is_not_served_and_says_what_to_do(world: World) -> None:
    world.publish("acme", "support", 1, base=make_base(world.root / "other", seed=9))
    with pytest.raises(NotServed, match="serve that backbone, or train the adapter on this one"):
        world.fetch("acme/support")


def test_the_backbones_digest_can_be_told_instead_of_hashed(world: World) -> None:
    made = world.publish("acme", "support", 1)
    assert world.fetch("acme/support", base_digest=made.base_digest) == made.version
    with pytest.raises(NotServed):
        world.fetch("acme/support", base_digest="f" * 64)


def test_only_what_a_trusted_key_signed_is_served_where_keys_are_named(world: World) -> None:
    made = world.publish("acme", "support", 1)
    key = SigningKey.create(world.root / "key.pem")
    (world.root / "trusted.pem").write_bytes(key.public.pem())
    with pytest.raises(NotServed, match="graft adapter sign"):
        world.fetch("acme/support", trusted_keys=world.root / "trusted.pem")
    manifest = world.store.versions.get("acme", "support", made.version)
    world.store.signatures.sign(manifest, key, by="test")
    assert world.fetch("acme/support", trusted_keys=world.root / "trusted.pem") == made.version


def test_damage_is_never_loaded(world: World) -> None:
    made = world.publish("acme", "support", 1)
    blob = world.root / f"store/v1/tenants/acme/blobs/sha256/{made.file('adapter_model.safetensors').sha256}"
    good = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CorruptBlob):
        world.fetch("acme/support")
    blob.write_bytes(good)
    world.fetch("acme/support")
    kept = next((world.root / "cache").rglob("adapter_model.safetensors"))
    kept.chmod(0o600)
    kept.write_bytes(b"x")
    world.fetch("acme/support")
    assert next((world.root / "cache").rglob("adapter_model.safetensors")).read_bytes() == good


def test_another_template_than_the_servers_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish("acme", "support", 1)
    world.fetch("acme/support")
    assert "--chat-template" in caplog.text
    caplog.clear()
    (world.base / "chat_template.jinja").write_text("{{ messages }}")
    world.fetch("acme/support")
    assert caplog.text == ""


# The entry point


def test_without_a_store_nothing_is_registered_and_nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from graftwork_vllm_resolver.plugin import register; register();"
        "assert not {'vllm', 'torch', 'adapter_store', 'minio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_store_without_tenants_stops_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAFT_RESOLVER_STORE_URL", f"file://{tmp_path}")
    monkeypatch.delenv("GRAFT_RESOLVER_TENANTS", raising=False)
    with pytest.raises(plugin.NoTenants, match="GRAFT_RESOLVER_TENANTS=acme"):
        plugin.register()


def test_a_wrong_url_stops_the_server(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="use file:///"):
        Adapters(ResolverSettings(store_url="/just/a/path", tenants="*", cache_dir=tmp_path))
