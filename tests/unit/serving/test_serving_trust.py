"""Signed versions only: what is asked of the store, what is remembered, and for how long; real keys, real store."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from adapter_store import AdapterStore, Provenance, VersionManifest, open_store, read_base
from adapter_store.errors import StoreUnavailable
from graftwork.signing import RECHECK_S, PublicKey, SigningKey, TrustedKeys
from serving_service.core.errors import Untrusted
from serving_service.core.routing import Router
from serving_service.core.trust import Trust
from tests.store_samples import make_adapter, make_base


class Asked:
    """The store's signatures, counting, and able to be away."""

    def __init__(self, store: AdapterStore) -> None:
        self._store, self.count, self.away = store, 0, False

    def signer(self, manifest: VersionManifest, trusted: Mapping[str, PublicKey]) -> str | None:
        self.count += 1
        if self.away:
            raise StoreUnavailable("away")
        return self._store.signatures.signer(manifest, trusted)


class World:
    """A store with versions of one adapter, a folder of trusted keys, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0.0
        self.store = open_store(f"file://{root}/store")
        self.store.tenants.create("acme")
        self.base = read_base(make_base(root / "base"))
        self.versions = [self.publish(seed) for seed in range(2)]
        self.folder = root / "trusted"
        self.folder.mkdir()
        self.key = SigningKey.create(root / "key")
        self.trust_key(self.key)
        self.asked = Asked(self.store)
        self.trust = Trust(self.asked, TrustedKeys(self.folder, self.clock), clock=self.clock)

    def publish(self, seed: int) -> VersionManifest:
        folder = make_adapter(self.root / f"adapter-{seed}", seed)
        return self.store.versions.publish("acme", "task", folder, base=self.base, made=Provenance(made_by="tests"))

    def clock(self) -> float:
        return self.now

    def trust_key(self, key: SigningKey) -> Path:
        file = self.folder / f"{key.public.id}.pub"
        file.write_bytes(key.public.pem())
        return file

    def sign(self, number: int = 0, key: SigningKey | None = None) -> None:
        self.store.signatures.sign(self.versions[number], key or self.key, by="tests")

    async def refuses(self, number: int = 0) -> bool:
        try:
            await self.trust.require(self.versions[number])
        except Untrusted:
            return True
        return False


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_warm_request_asks_the_store_nothing(world: World) -> None:
    world.sign()
    for _ in range(3):
        assert not await world.refuses()
        world.now += 3600
    assert world.asked.count == 1
    world.asked.away = True
    assert not await world.refuses(), "what is known goes on being served while the store is away"
    with pytest.raises(StoreUnavailable):
        await world.trust.require(world.versions[1])


async def test_a_refusal_is_reused_for_a_second_and_then_asked_again(world: World) -> None:
    for _ in range(3):
        assert await world.refuses()
    assert world.asked.count == 1
    world.sign()
    assert await world.refuses()
    world.now += 1
    assert not await world.refuses()
    assert world.asked.count == 2


async def test_a_key_taken_away_is_refused_and_given_back_is_not(world: World) -> None:
    world.sign()
    assert not await world.refuses()
    file = world.trust_key(world.key)
    other = SigningKey.create(world.root / "other")
    world.trust_key(other)  # the folder is never empty: this is about the key, not about having none
    file.unlink()
    world.now += RECHECK_S
    assert await world.refuses()
    world.trust_key(world.key)
    world.now += RECHECK_S
    assert not await world.refuses()


async def test_rotation_old_and_new_key_side_by_side(world: World) -> None:
    world.sign()
    new = SigningKey.create(world.root / "new")
    world.trust_key(new)
    world.sign(0, new)
    world.now += RECHECK_S
    assert not await world.refuses()
    (world.folder / f"{world.key.public.id}.pub").unlink()
    world.now += RECHECK_S
    assert not await world.refuses(), "the new key's signature takes over"


async def test_no_readable_key_refuses_everything(world: World) -> None:
    world.sign()
    assert not await world.refuses()
    (world.folder / f"{world.key.public.id}.pub").write_text("not a key")
    world.now += RECHECK_S
    with pytest.raises(Untrusted, match="cannot be read"):
        await world.trust.require(world.versions[0])


async def test_another_versions_signature_is_none(world: World) -> None:
    world.sign(0)
    assert not await world.refuses(0)
    assert await world.refuses(1)


async def test_a_signature_by_an_unknown_key_is_none(world: World) -> None:
    world.sign(0, SigningKey.create(world.root / "unknown"))
    assert await world.refuses()


async def test_routing_refuses_before_anybody_could_fetch(world: World) -> None:
    router = Router(world.store, base_digest=world.base.digest, max_lora_rank=64, trust=world.trust, clock=world.clock)
    version = world.versions[0].version
    world.store.aliases.set("acme", "task", "prod", version, by="tests", reason="")
    resolve: Callable[[], object] = lambda: router.resolve("acme", "task")  # noqa: E731
    with pytest.raises(Untrusted, match=version):
        await resolve()
    world.sign()
    world.now += 1
    assert (await resolve()).version == version


async def test_of_a_split_alias_only_the_signed_part_is_served(world: World) -> None:
    digests = [version.version for version in world.versions]
    world.store.aliases.split("acme", "task", "prod", dict.fromkeys(digests, 1), by="tests", reason="")
    world.sign(0)
    draws = iter([0.0, 0.9, 0.0])
    router = Router(
        world.store, base_digest=world.base.digest, max_lora_rank=64, trust=world.trust, draw=lambda: next(draws)
    )
    outcomes = []
    for _ in range(3):
        try:
            outcomes.append((await router.resolve("acme", "task")).version)
        except Untrusted:
            outcomes.append("refused")
    order = sorted(digests)
    expected = [order[0], order[1], order[0]]
    assert outcomes == [digest if digest == digests[0] else "refused" for digest in expected]
