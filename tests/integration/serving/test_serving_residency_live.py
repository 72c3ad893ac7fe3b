"""Residency through the real service: cold, warm, evicted, reloaded, replaced while in use, cancelled."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Service, World, make_adapter, wait_until

pytestmark = pytest.mark.slow


def long_prompt(fresh: str, reference: Callable[..., str]) -> str:
    """A prompt whose greedy answer does not end by itself, so that the request is surely under way."""
    return next(prompt for prompt in map(str, range(200)) if len(reference(fresh, prompt, 400)) >= 400)


def identity(world: World, name: str) -> str:
    return f"acme/{name}@{world.versions[name].version}"


def test_cold_then_warm_then_evicted_then_cold_again(
    service: Service, world: World, fresh: str, reference: Callable[..., str]
) -> None:
    """Eviction frees slot, host copy, folder and id; the next request brings everything back with the same answer."""
    cold = service.generate("acme", fresh, "some text")
    warm = service.generate("acme", fresh, "some text")
    assert cold.started.tier == serving_pb2.TIER_STORE
    assert cold.finished.timings.load_ms > 0
    assert warm.started.tier == serving_pb2.TIER_DEVICE
    assert warm.finished.timings.load_ms == 0
    row = service.residents()[identity(world, fresh)]
    assert (row.tier, row.uses, row.users) == (serving_pb2.TIER_DEVICE, 2, 0)
    assert row.HasField("slot")
    assert min(row.disk_load_ms, row.host_load_ms, row.device_load_ms) > 0
    folder = service.cache / "adapters" / identity(world, fresh)
    assert folder.is_dir()
    assert service.evict("acme", fresh, world.versions[fresh].version).freed_disk_bytes == world.versions[fresh].size
    assert identity(world, fresh) not in service.residents()
    assert not folder.exists()
    again = service.generate("acme", fresh, "some text")
    assert again.started.tier == serving_pb2.TIER_STORE
    assert again.text == cold.text == warm.text == reference(fresh, "some text", 32)


def test_evicting_what_is_in_use_or_absent_is_refused(
    service: Service, world: World, fresh: str, reference: Callable[..., str]
) -> None:
    stream = service.start_generate("acme", fresh, long_prompt(fresh, reference), max_tokens=400)
    next(stream)
    version = world.versions[fresh].version
    with pytest.raises(grpc.RpcError) as used:
        service.evict("acme", fresh, version)
    assert used.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    stream.cancel()
    wait_until(
        "the cancelled call gave its lease back", lambda: not service.residents()[identity(world, fresh)].users, 10
    )
    service.evict("acme", fresh, version)
    with pytest.raises(grpc.RpcError) as absent:
        service.evict("acme", fresh, version)
    assert absent.value.code() == grpc.StatusCode.NOT_FOUND


def test_many_first_requests_load_once(service: Service, world: World, fresh: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.generate("acme", fresh, "same", max_tokens=8), range(8)))
    assert len({answer.text for answer in answers}) == 1
    loads = [line for line in service.log().splitlines() if identity(world, fresh) in line and "adapter loaded" in line]
    assert len(loads) == 1


def test_new_version_serves_new_requests_while_old_ones_finish(
    service: Service, world: World, fresh: str, reference: Callable[..., str]
) -> None:
    """The alias moves under a running request: that one ends on its version, the next gets the new one."""
    prompt = long_prompt(fresh, reference)
    running = service.start_generate("acme", fresh, prompt, max_tokens=400)
    first = next(running)
    old = world.versions[fresh].version
    assert first.started.version == old
    folder = make_adapter(world.backbone, world.root / "adapters" / f"{fresh}-2", rank=8, seed=4242)
    new = world.publish("acme", fresh, folder).version

    def moved() -> bool:
        return service.generate("acme", fresh, "x", max_tokens=1).started.version == new

    wait_until("the alias's new target is used", moved, 5)
    rest = list(running)
    assert "".join(part.text for part in rest[:-1]) == reference(fresh, prompt, 400)


def by_tier(service: Service, name: str) -> dict[str, float]:
    """One metric's values."""
    samples = [one for family in text_string_to_metric_families(service.get("/metrics").text) for one in family.samples]
    return {one.labels["tier"]: one.value for one in samples if one.name == name}


def test_metrics_show_what_is_resident_and_what_went(service: Service, world: World, fresh: str) -> None:
    """The same as the operator's list, while nothing runs."""
    service.generate("acme", fresh, "some text")
    rows = service.residents().values()
    tiers = Counter(serving_pb2.Tier.Name(row.tier).removeprefix("TIER_").lower() for row in rows)
    shown = by_tier(service, "graft_resident_adapters")
    assert tiers["device"]
    assert {tier: count for tier, count in shown.items() if count} == tiers
    assert by_tier(service, "graft_resident_bytes") == {
        "disk": sum(row.disk_bytes for row in rows),
        "host": sum(row.host_bytes for row in rows),
    }
    gone = service.residents()[identity(world, fresh)]
    evictions, freed = by_tier(service, "graft_evictions_total"), by_tier(service, "graft_evicted_bytes_total")
    service.evict("acme", fresh, world.versions[fresh].version)
    for tier, size in {"disk": gone.disk_bytes, "host": gone.host_bytes}.items():
        assert size
        assert by_tier(service, "graft_evictions_total")[tier] == evictions.get(tier, 0) + 1
        assert by_tier(service, "graft_evicted_bytes_total")[tier] == freed.get(tier, 0) + size
