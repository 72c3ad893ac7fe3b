"""Residency's invariants, with the real filesystem store and its real checks; only the engine's slots are a plain dict.

Single flight; nothing in use is ever evicted; budgets hold; damaged files are replaced; failures leave nothing.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from safetensors.numpy import save_file

from adapter_store import AdapterStore, Provenance, VersionManifest, open_store, read_base
from adapter_store.errors import CorruptBlob
from serving_service.core.errors import CacheFull, InUse, NotResident
from serving_service.core.residency import Residency
from serving_service.engine.protocol import AdapterRefused, LoraRef, Tier

WIDTH, COUNT = 16, 4


class Shelf:
    """An engine's host memory: reads the folder when loading as vLLM does, and gives up nothing by itself."""

    def __init__(self) -> None:
        self.held, self.loads = dict[str, bytes](), 0
        self.refuse = False
        self.reading = 0
        """Loads for which a core is left now."""

    @asynccontextmanager
    async def loading(self, size: int) -> AsyncIterator[None]:
        assert size > 0
        self.reading += 1
        try:
            yield
        finally:
            self.reading -= 1

    def tier(self, name: str) -> Tier | None:
        return Tier.DEVICE if name in self.held else None

    def slot(self, name: str) -> int | None:
        return list(self.held).index(name) if name in self.held else None

    def device_ms(self, name: str) -> float:
        return 1.5 if name in self.held else 0.0

    def watch_slots(self, told: Callable[[float], None]) -> None:
        pass

    async def load(self, lora: LoraRef) -> int:
        assert self.reading, "a core is left to it"
        self.loads += 1
        await asyncio.sleep(0)
        if self.refuse:
            raise AdapterRefused("refused")
        self.held[lora.name] = (lora.path / "adapter_model.safetensors").read_bytes()
        return len(self.held[lora.name])

    async def unload(self, name: str) -> None:
        await asyncio.sleep(0)
        self.held.pop(name, None)

    async def refresh(self) -> None:
        await asyncio.sleep(0)


class Counting:
    """The store's versions, counting fetches that read the store, and able to wait in the middle of one."""

    def __init__(self, store: AdapterStore) -> None:
        self._store, self.fetched, self.gate = store, 0, threading.Event()
        self.gate.set()
        self.began = threading.Event()

    def fetch(self, manifest: VersionManifest, dest: Path) -> Path:
        self.fetched += 1
        self.began.set()
        assert self.gate.wait(20)
        return self._store.versions.fetch(manifest, dest)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterStore, list[VersionManifest]]:
    root = tmp_path_factory.mktemp("residency")
    rng = np.random.default_rng(0)
    base = root / "base"
    base.mkdir()
    names = [f"model.layers.0.self_attn.{part}_proj" for part in "qv"]
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "vocab_size": 8}
    config |= {"num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": WIDTH, "num_key_value_heads": 2}
    (base / "config.json").write_text(json.dumps(config))
    save_file({f"{n}.weight": np.zeros((WIDTH, WIDTH), np.float32) for n in names}, base / "model.safetensors")
    store = open_store(f"file://{root / 'store'}")
    store.tenants.create("acme")
    manifests = []
    for number in range(COUNT):
        folder = root / f"a{number}"
        folder.mkdir()
        tensors = {}
        for name in names:
            for side, shape in (("A", (2, WIDTH)), ("B", (WIDTH, 2))):
                key = f"base_model.model.{name}.lora_{side}.weight"
                tensors[key] = rng.normal(size=shape).astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")
        peft = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none"}
        peft |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "base"}
        (folder / "adapter_config.json").write_text(json.dumps(peft))
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        made = Provenance(made_by="tests")
        manifests.append(store.versions.publish("acme", f"a{number}", folder, base=read_base(base), made=made))
    return store, manifests


Make = Callable[..., tuple[Residency, Shelf, Counting]]


@pytest.fixture
def make(published: tuple[AdapterStore, list[VersionManifest]], tmp_path: Path) -> Make:
    def build(disk: int = 10**9, host: int = 10**9) -> tuple[Residency, Shelf, Counting]:
        shelf, fetcher = Shelf(), Counting(published[0])
        return Residency(fetcher, shelf, tmp_path / "cache", disk_budget=disk, host_budget=host), shelf, fetcher

    return build


@pytest.fixture
def one(published: tuple[AdapterStore, list[VersionManifest]]) -> VersionManifest:
    return published[1][0]


def folders(root: Path) -> set[str]:
    return {path.name for path in root.glob("*/*")}


async def test_a_core_is_left_to_a_load_for_as_long_as_it_takes(make: Make, one: VersionManifest) -> None:
    residency, shelf, fetcher = make()
    fetcher.gate.clear()
    using = asyncio.create_task(_use(residency, one))
    assert await asyncio.to_thread(fetcher.began.wait, 20)
    assert shelf.reading
    fetcher.gate.set()
    await using
    assert not shelf.reading
    await residency.evict(one.tenant, one.adapter, one.version)
    shelf.refuse = True
    with pytest.raises(AdapterRefused):
        await _use(residency, one)
    assert not shelf.reading, "also when it fails"


async def _use(residency: Residency, manifest: VersionManifest) -> None:
    async with residency.lease(manifest):
        pass


async def test_one_flight_for_many_and_it_outlives_the_first(make: Make, one: VersionManifest) -> None:
    """Twenty requests, one fetch, one load; cancelling the one that started it does not hurt the others."""
    residency, shelf, fetcher = make()
    fetcher.gate.clear()

    async def use() -> Tier:
        async with residency.lease(one) as lease:
            assert shelf.tier(lease.lora.name)
            return lease.tier

    first = asyncio.create_task(use())
    await asyncio.sleep(0)
    others = [asyncio.create_task(use()) for _ in range(19)]
    await asyncio.sleep(0)
    first.cancel()
    fetcher.gate.set()
    assert set(await asyncio.gather(*others)) == {Tier.STORE}
    assert first.cancelled() or await asyncio.wait({first})
    assert (fetcher.fetched, shelf.loads) == (1, 1)
    (row,) = await residency.list()
    assert (row.users, row.uses) == (0, 19)


async def test_budget_evicts_the_least_recently_used_but_never_a_leased_one(
    make: Make, published: tuple[AdapterStore, list[VersionManifest]], tmp_path: Path
) -> None:
    a, b, c, _ = published[1]
    residency, _, _ = make(disk=2 * max(m.size for m in published[1]) + 10)
    async with residency.lease(a):
        async with residency.lease(b):
            with pytest.raises(CacheFull) as full:
                async with residency.lease(c):
                    pass
            assert full.value.retry_after_seconds, "whoever holds the room may be done then"
        async with residency.lease(c):  # b is idle now; a is not, though it was used longest ago
            assert {row.adapter for row in await residency.list()} == {"a0", "a2"}
    assert folders(tmp_path / "cache") == {f"a0@{a.version}", f"a2@{c.version}"}


async def test_files_on_disk_stay_for_whoever_reads_them(
    make: Make, published: tuple[AdapterStore, list[VersionManifest]]
) -> None:
    """For a reader beside the engine: fetched and verified, not loaded, and neither evicted nor pushed out meanwhile."""
    a, b, *_ = published[1]
    residency, shelf, fetcher = make(disk=max(m.size for m in published[1]) + 10)
    async with residency.on_disk(a) as files:
        assert (files.lora.path / "adapter_model.safetensors").exists()
        assert files.template == "{{ messages }}"
        assert not shelf.loads
        with pytest.raises(InUse):
            await residency.evict(a.tenant, a.adapter, a.version)
        with pytest.raises(CacheFull):
            async with residency.lease(b):
                pass
    (files.lora.path / "adapter_model.safetensors").write_bytes(b"damaged")
    async with residency.on_disk(a) as files:
        assert (files.lora.path / "adapter_model.safetensors").read_bytes() != b"damaged"
    assert fetcher.fetched == 2
    async with residency.lease(a), residency.on_disk(a):
        assert fetcher.fetched == 3, "what the engine holds is not read again"


async def test_evict_frees_everything_and_refuses_what_is_used(
    make: Make, one: VersionManifest, tmp_path: Path
) -> None:
    residency, shelf, _ = make()
    key = (one.tenant, one.adapter, one.version)
    async with residency.lease(one):
        with pytest.raises(InUse):
            await residency.evict(*key)
    assert await residency.evict(*key) == one.size
    assert not shelf.held
    assert not folders(tmp_path / "cache")
    assert not await residency.list()
    with pytest.raises(NotResident):
        await residency.evict(*key)
    async with residency.lease(one) as lease:
        assert lease.tier is Tier.STORE


async def test_damaged_cache_is_fetched_again(make: Make, one: VersionManifest) -> None:
    """Bytes on disk are verified whenever they go into the engine."""
    residency, shelf, _ = make()
    async with residency.lease(one) as lease:
        weights = lease.lora.path / "adapter_model.safetensors"
        good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"\1\2\3\4")
    shelf.held.clear()  # the engine is another one
    async with residency.lease(one) as lease:
        assert lease.tier is Tier.DISK
        assert shelf.held[lease.lora.name] == good == weights.read_bytes()


async def test_adopts_only_what_verifies(
    make: Make, published: tuple[AdapterStore, list[VersionManifest]], tmp_path: Path
) -> None:
    a, b, _, _ = published[1]
    residency, _, _ = make()
    for manifest in (a, b):
        async with residency.lease(manifest):
            pass
    cache = tmp_path / "cache"
    (cache / "acme" / f"a1@{b.version}" / "adapter_config.json").write_text("{}")
    (cache / "acme" / f"a0@{a.version}.partial-1-2").mkdir()
    (cache / "stray").write_text("x")
    again, _, _ = make()
    assert await again.adopt() == 1
    assert folders(cache) == {f"a0@{a.version}"}
    assert not (cache / "stray").exists()
    async with again.lease(a) as lease:
        assert lease.tier is Tier.DISK


async def test_failures_leave_nothing(
    published: tuple[AdapterStore, list[VersionManifest]], one: VersionManifest, tmp_path: Path
) -> None:
    """A version that cannot be fetched is no resident and takes no budget; one that the engine refuses can be evicted."""
    shelf, now = Shelf(), [0.0]
    residency = Residency(
        Counting(published[0]), shelf, tmp_path / "cache", disk_budget=10**9, host_budget=10**9, clock=lambda: now[0]
    )
    wrong = one.model_copy(update={"files": tuple(f.model_copy(update={"size": f.size + 1}) for f in one.files)})
    with pytest.raises(CorruptBlob):
        async with residency.lease(wrong):
            pass
    assert not await residency.list()
    assert not folders(tmp_path / "cache")
    now[0] += 60
    shelf.refuse = True
    with pytest.raises(AdapterRefused):
        async with residency.lease(one):
            pass
    shelf.refuse = False
    with pytest.raises(AdapterRefused):  # remembered for a moment: who asks again at once costs nothing
        async with residency.lease(one):
            pass
    assert shelf.loads == 1
    now[0] += 60
    async with residency.lease(one) as lease:
        assert lease.tier is Tier.DISK


async def test_memory_is_made_room_in_and_its_loser_stays_on_disk(
    make: Make, published: tuple[AdapterStore, list[VersionManifest]]
) -> None:
    """Three adapters, memory for two: what is idle leaves memory only, and comes back from disk without the store."""
    a, b, c, _ = published[1]
    residency, shelf, _ = make(host=2 * max(m.size for m in published[1]) + 10)
    async with residency.lease(a):
        for other in (b, c, b):
            async with residency.lease(other) as lease:
                assert lease.lora.name in shelf.held
                assert len(shelf.held) == 2
        async with residency.lease(b):
            with pytest.raises(CacheFull, match="HOST_BUDGET"):
                async with residency.lease(c):
                    pass
    tiers = {row.adapter: (row.tier, row.host_bytes > 0) for row in await residency.list()}
    assert tiers == {"a0": (Tier.DEVICE, True), "a1": (Tier.DEVICE, True), "a2": (Tier.DISK, False)}


async def test_what_is_pinned_stays_until_it_is_not(
    make: Make, published: tuple[AdapterStore, list[VersionManifest]]
) -> None:
    a, b, c, _ = published[1]
    residency, shelf, _ = make(disk=2 * max(m.size for m in published[1]) + 10)
    row = await residency.prefetch(a, to=Tier.HOST, pin=True)
    assert (row.tier, row.pinned, row.uses) == (Tier.DEVICE, True, 0)
    for other in (b, c, b):
        async with residency.lease(other):
            pass
    assert f"acme/a0@{a.version}" in shelf.held
    residency.unpin(a.tenant, a.adapter, a.version)
    async with residency.lease(c):
        pass
    assert f"acme/a0@{a.version}" not in shelf.held  # unused, so worth less than b
    with pytest.raises(NotResident):
        residency.unpin(a.tenant, a.adapter, a.version)


async def test_prefetched_to_disk_is_not_in_memory(make: Make, one: VersionManifest) -> None:
    residency, shelf, _ = make()
    row = await residency.prefetch(one, to=Tier.DISK)
    assert (row.tier, row.disk_bytes, row.host_bytes) == (Tier.DISK, one.size, 0)
    assert not shelf.held
    async with residency.lease(one) as lease:
        assert lease.tier is Tier.DISK
        assert lease.template == "{{ messages }}"


async def test_who_meets_a_move_that_ends_in_the_same_turn_goes_on(make: Make, one: VersionManifest) -> None:
    """Awaiting a task that is done gives the loop no turn: a leftover `move` would spin it for ever."""
    residency, _, _ = make()
    for _ in range(20):
        async with asyncio.timeout(20):
            await asyncio.gather(*(residency.prefetch(one, to=Tier.HOST) for _ in range(5)))
            await residency.evict(one.tenant, one.adapter, one.version)


def test_any_history_keeps_the_invariants(
    published: tuple[AdapterStore, list[VersionManifest]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Leases, releases, evictions, damage and restarts in any order."""
    store, manifests = published
    budget = 3 * max(manifest.size for manifest in manifests) + 10
    memory = 2 * max(manifest.size for manifest in manifests) + 10
    which = st.sampled_from(range(COUNT))

    class History(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.loop = asyncio.new_event_loop()
            self.root = tmp_path_factory.mktemp("history")
            self.leases: list[tuple[int, contextlib.AsyncExitStack, LoraRef]] = []
            self.pinned: set[int] = set()
            self.open()

        def open(self) -> None:
            self.shelf = Shelf()
            self.residency = Residency(store.versions, self.shelf, self.root, disk_budget=budget, host_budget=memory)
            self.loop.run_until_complete(self.residency.adopt())

        @rule(number=which)
        def lease(self, number: int) -> None:
            async def take() -> None:
                stack = contextlib.AsyncExitStack()
                lease = await stack.enter_async_context(self.residency.lease(manifests[number]))
                self.leases.append((number, stack, lease.lora))
                assert self.shelf.tier(lease.lora.name) is not None

            others = ({held for held, _, _ in self.leases} | self.pinned) - {number}
            try:
                self.loop.run_until_complete(take())
            except CacheFull:
                assert len(others) >= 2, "room could have been made"

        @rule(number=which, to=st.sampled_from([Tier.DISK, Tier.HOST]), pin=st.booleans())
        def prefetch(self, number: int, to: Tier, pin: bool) -> None:
            others = ({held for held, _, _ in self.leases} | self.pinned) - {number}
            try:
                row = self.loop.run_until_complete(self.residency.prefetch(manifests[number], to=to, pin=pin))
            except CacheFull:
                assert len(others) >= 2, "room could have been made"
            else:
                assert row.disk_bytes
                assert to is Tier.DISK or row.tier is Tier.DEVICE
                if pin:
                    self.pinned.add(number)

        @precondition(lambda self: self.pinned)
        @rule(data=st.data())
        def unpin(self, data: st.DataObject) -> None:
            number = data.draw(st.sampled_from(sorted(self.pinned)))
            self.pinned.remove(number)
            manifest = manifests[number]
            self.residency.unpin("acme", manifest.adapter, manifest.version)

        @precondition(lambda self: self.leases)
        @rule(data=st.data())
        def release(self, data: st.DataObject) -> None:
            _, stack, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
            self.loop.run_until_complete(stack.aclose())

        @rule(number=which)
        def evict(self, number: int) -> None:
            manifest = manifests[number]
            used = any(held == number for held, _, _ in self.leases)
            try:
                self.loop.run_until_complete(self.residency.evict("acme", manifest.adapter, manifest.version))
                assert not used
                self.pinned.discard(number)
            except InUse:
                assert used
            except NotResident:
                assert not used

        @precondition(lambda self: not self.leases)
        @rule(number=which)
        def damage(self, number: int) -> None:
            manifest = manifests[number]
            file = self.root / "acme" / f"{manifest.adapter}@{manifest.version}" / "adapter_model.safetensors"
            if file.exists():
                file.write_bytes(b"damaged")
                self.shelf.held.pop(f"acme/{manifest.adapter}@{manifest.version}", None)

        @precondition(lambda self: not self.leases)
        @rule()
        def restart(self) -> None:
            self.loop.run_until_complete(self.residency.close())
            self.pinned.clear()
            self.open()

        @invariant()
        def holds(self) -> None:
            rows = self.loop.run_until_complete(self.residency.list())
            assert sum(row.disk_bytes for row in rows) <= budget
            assert sum(row.host_bytes for row in rows) <= memory
            assert {row.adapter for row in rows if row.pinned} == {manifests[n].adapter for n in self.pinned}
            for number in self.pinned:
                assert self.on_disk(number), "what is pinned was evicted"
            for _, _, lora in self.leases:
                assert lora.path.is_dir(), "a leased folder was evicted"
            for row in rows:
                held = sum(manifests[number].adapter == row.adapter for number, _, _ in self.leases)
                assert row.users == held
            for name, content in self.shelf.held.items():
                assert content != b"damaged", name

        def on_disk(self, number: int) -> bool:
            return (self.root / "acme" / f"{manifests[number].adapter}@{manifests[number].version}").is_dir()

        def teardown(self) -> None:
            for _, stack, _ in self.leases:
                self.loop.run_until_complete(stack.aclose())
            self.loop.run_until_complete(self.residency.close())
            self.loop.close()

    run_state_machine_as_test(
        History,
        settings=settings(max_examples=25, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )
