"""An adapter that is damaged or gone in the store, or damaged on this node: a clear error or the right answer, and nobody
else notices."""

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from adapter_store.manifest import WEIGHTS_FILE
from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Service, World

pytestmark = pytest.mark.slow


def blob(world: World, name: str) -> Path:
    digest = world.versions[name].file(WEIGHTS_FILE).sha256
    return world.root / "store" / "v1" / "tenants" / "acme" / "blobs" / "sha256" / digest


def test_damaged_in_the_store(service: Service, world: World, fresh: str, reference: Callable[..., str]) -> None:
    """DATA_LOSS names the adapter; asked again at once it is not fetched again; others are served; nothing stays behind."""
    damaged = blob(world, fresh)
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-8] + b"\0damage\0")
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            service.generate("acme", fresh, "some text")
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert "some text" not in caught.value.details()
    assert service.generate("globex", "task", "some text").text == reference("globex", "some text", 32)
    assert not [name for name in service.residents() if f"/{fresh}@" in name]
    assert not list((service.cache / "adapters" / "acme").glob(f"{fresh}@*"))
    damaged.write_bytes(good)


def test_gone_between_listing_and_loading(service: Service, world: World, fresh: str) -> None:
    blob(world, fresh).unlink()
    with pytest.raises(grpc.RpcError) as caught:
        service.generate("acme", fresh, "some text")
    assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DATA_LOSS), caught.value.details()
    assert not [name for name in service.residents() if f"/{fresh}@" in name]


def test_damaged_on_this_node(service: Service, world: World, fresh: str, reference: Callable[..., str]) -> None:
    """It is brought to disk only, damaged there, and replaced from the store when it is asked for."""
    request = serving_pb2.PrefetchRequest(tenant="acme", model=fresh, tier=serving_pb2.TIER_DISK)
    row = service.stub.Prefetch(request, metadata=service.as_operator(), timeout=60)
    assert (row.tier, row.host_bytes) == (serving_pb2.TIER_DISK, 0)
    weights = service.cache / "adapters" / "acme" / f"{fresh}@{row.version}" / WEIGHTS_FILE
    weights.write_bytes(b"damaged")
    answer = service.generate("acme", fresh, "some text")
    assert answer.started.tier == serving_pb2.TIER_DISK
    assert answer.text == reference(fresh, "some text", 32)


def test_pinned_and_unpinned(service: Service, world: World, fresh: str) -> None:
    def pin(unpin: bool) -> serving_pb2.Residency:
        request = serving_pb2.PinRequest(tenant="acme", model=fresh, unpin=unpin)
        return service.stub.Pin(request, metadata=service.as_operator(), timeout=60)

    row = pin(False)
    assert row.pinned
    assert row.host_bytes > 0
    assert row.disk_load_ms > 0
    assert row.host_load_ms > 0
    assert service.generate("acme", fresh, "some text").started.tier in (
        serving_pb2.TIER_HOST,
        serving_pb2.TIER_DEVICE,
    )
    assert not pin(True).pinned
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.Pin(
            serving_pb2.PinRequest(tenant="acme", model=fresh), metadata=service.as_tenant("acme"), timeout=60
        )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
