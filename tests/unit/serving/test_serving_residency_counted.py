"""What metrics make of adapters that come and go: the gauges are what residency holds, and every eviction is counted where it happened."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapter_store import Provenance, VersionManifest, open_store, read_base
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.service import Serving
from serving_service.engine.protocol import LoraRef, Tier
from serving_service.observe.gauges import StateCollector
from serving_service.observe.metrics import ServingMetrics
from tests.store_samples import lora_tensors, make_adapter, make_base
from tests.unit.serving.scripted import ADMISSION, ScriptedEngine
from tests.unit.serving.test_serving_observing import samples

NAMES = ("small", "middle", "large")
RANKS = dict(zip(NAMES, (1, 2, 4), strict=True))
"""All differ, so that no adapter's bytes can be taken for another's."""


class Tiered(ScriptedEngine):
    """Has loaded adapters in memory, where they take twice the bytes of their file, and `slotted` in a slot; `gate` holds loads up."""

    def __init__(self) -> None:
        super().__init__()
        self.slotted, self.bytes = "", dict[str, int]()
        self.gate, self.reached = asyncio.Event(), asyncio.Event()
        self.gate.set()

    def tier(self, name: str) -> Tier | None:
        if name not in self.held:
            return None
        return Tier.DEVICE if adapter_of(name) == self.slotted else Tier.HOST

    def loading(self, size: int) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def waiting() -> AsyncIterator[None]:
            self.reached.set()
            await self.gate.wait()
            yield

        return waiting()

    async def load(self, lora: LoraRef) -> int:
        await super().load(lora)
        size = 2 * (lora.path / "adapter_model.safetensors").stat().st_size
        self.bytes[adapter_of(lora.name)] = size
        return size


def adapter_of(name: str) -> str:
    return name.partition("/")[2].partition("@")[0]


@dataclass
class Node:
    """A service with metrics, and three published adapters."""

    engine: Tiered
    serving: Serving
    versions: dict[str, VersionManifest]
    registry: CollectorRegistry

    def of(self, name: str) -> dict[str, float]:
        """A metric's values by tier."""
        return {labels[0]: value for (metric, labels), value in samples(self.registry).items() if metric == name}

    def size(self, *names: str) -> int:
        """Bytes on disk."""
        return sum(self.versions[name].size for name in names)

    def memory(self, *names: str) -> int:
        """Bytes in the engine."""
        return sum(self.engine.bytes[name] for name in names)

    async def evict(self, name: str) -> int:
        return await self.serving.operations.evict("acme", name, self.versions[name].version)

    async def check(self, *, store: int = 0, disk: int = 0, host: int = 0, device: int = 0) -> None:
        """The gauges show so many adapters in the tiers, and exactly what an operator's list has."""
        rows = await self.serving.operations.residents()
        counts = self.of("graft_resident_adapters")
        assert counts == {"store": store, "disk": disk, "host": host, "device": device}
        assert counts == {tier.value: sum(row.tier is tier for row in rows) for tier in Tier}
        assert self.of("graft_resident_bytes") == {
            "disk": sum(row.disk_bytes for row in rows),
            "host": sum(row.host_bytes for row in rows),
        }


Make = Callable[..., Awaitable[Node]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes a node on which everything of `disk` and of `host` fits into that tier, each a list of adapters, and no byte more."""
    base = read_base(make_base(tmp_path / "base"))
    store = open_store(f"file://{tmp_path / 'store'}")
    store.tenants.create("acme")
    versions = {}
    for name, rank in RANKS.items():
        folder = make_adapter(tmp_path / name, tensors=lora_tensors(rank=rank), r=rank)
        made = store.versions.publish("acme", name, folder, base=base, made=Provenance(made_by="tests"))
        store.aliases.set("acme", name, "prod", made.version, by="tests", reason="tests")
        versions[name] = made
    async with AsyncExitStack() as stack:

        async def start(*, disk: Sequence[str] = 9 * NAMES, host: Sequence[str] = 9 * NAMES) -> Node:
            engine, registry = Tiered(), CollectorRegistry()
            serving = Serving(
                store=store,
                base=base,
                engine=engine,
                cache_dir=tmp_path / "cache",
                disk_budget_bytes=sum(versions[name].size for name in disk),
                host_budget_bytes=sum(versions[name].size for name in host),
                max_lora_rank=16,
                limits=PromptLimits(1000, 10),
                admission=ADMISSION,
                tenant_defaults=TenantPolicy(),
                observer=ServingMetrics(registry, 10),
            )
            registry.register(StateCollector(serving))
            await serving.start()
            stack.push_async_callback(serving.stop)
            return Node(engine, serving, versions, registry)

        yield start


async def test_gauges_are_what_is_here_in_each_tier(make: Make) -> None:
    node = await make()
    await node.check()
    assert node.of("graft_resident_bytes") == {"disk": 0, "host": 0}
    await node.serving.operations.prefetch("acme", "small", Tier.DISK)
    await node.check(disk=1)
    assert node.of("graft_resident_bytes") == {"disk": node.size("small"), "host": 0}
    await node.serving.operations.prefetch("acme", "middle", Tier.HOST)
    await node.check(disk=1, host=1)
    await node.serving.operations.prefetch("acme", "large", Tier.HOST)
    node.engine.slotted = "large"
    await node.check(disk=1, host=1, device=1)
    assert node.of("graft_resident_bytes") == {"disk": node.size(*NAMES), "host": node.memory("middle", "large")}
    await node.evict("middle")
    await node.check(disk=1, device=1)
    assert node.of("graft_resident_bytes") == {"disk": node.size("small", "large"), "host": node.memory("large")}


async def test_what_is_on_its_way_counts_as_in_the_store(make: Make) -> None:
    node = await make()
    node.engine.gate.clear()
    coming = asyncio.create_task(node.serving.operations.prefetch("acme", "small", Tier.HOST))
    await asyncio.wait_for(node.engine.reached.wait(), 30)
    await node.check(store=1)
    node.engine.gate.set()
    await coming
    await node.check(host=1)


async def test_what_an_operator_evicts_is_counted_in_every_tier_that_it_leaves(make: Make) -> None:
    """Else what was loaded into a tier, less what left it, would not be what is there."""
    node = await make()
    assert node.of("graft_evictions_total") == {}
    await node.serving.operations.prefetch("acme", "small", Tier.DISK)
    await node.evict("small")
    assert node.of("graft_evictions_total") == {"disk": 1}
    assert node.of("graft_evicted_bytes_total") == {"disk": node.size("small")}
    await node.serving.operations.prefetch("acme", "large", Tier.HOST)
    await node.evict("large")
    assert node.of("graft_evictions_total") == {"disk": 2, "host": 1}
    assert node.of("graft_evicted_bytes_total") == {"disk": node.size("small", "large"), "host": node.memory("large")}
    await node.check()


async def test_what_memory_has_no_room_for_is_counted_there_and_stays_on_disk(make: Make) -> None:
    node = await make(host=["large"])
    await node.serving.operations.prefetch("acme", "small", Tier.HOST)
    await node.serving.operations.prefetch("acme", "large", Tier.HOST)
    assert node.of("graft_evictions_total") == {"host": 1}
    assert node.of("graft_evicted_bytes_total") == {"host": node.memory("small")}
    await node.check(disk=1, host=1)


async def test_what_the_disk_has_no_room_for_is_counted_there(make: Make) -> None:
    node = await make(disk=["large"])
    await node.serving.operations.prefetch("acme", "small", Tier.DISK)
    await node.serving.operations.prefetch("acme", "large", Tier.DISK)
    assert node.of("graft_evictions_total") == {"disk": 1}
    assert node.of("graft_evicted_bytes_total") == {"disk": node.size("small")}
    await node.check(disk=1)
