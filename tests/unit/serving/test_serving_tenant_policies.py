"""Tenants' limits: changed ones hold within about a second, and the store's troubles stop nobody."""

import asyncio
import threading
from pathlib import Path

import pytest

from adapter_store import AdapterStore, open_store
from adapter_store.errors import StoreUnavailable
from adapter_store.manifest import TenantRecord
from adapter_store.tenants import FRESH_S
from serving_service.core import tenant_policies
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.tenant_policies import AGAIN_S, OPERATORS, STALE_S, TenantPolicies

DEFAULTS = TenantPolicy(requests_per_minute=100, concurrency=9)


class Desk:
    """A real store's tenants behind a switch, with a hand-driven clock."""

    def __init__(self, store: AdapterStore) -> None:
        self.store, self.now, self.away, self.reads = store, 0.0, False, 0
        self.gate = threading.Event()
        self.gate.set()
        self.policies = TenantPolicies(self._read, DEFAULTS, lambda: self.now)

    def _read(self, tenant: str) -> TenantRecord:
        self.reads += 1
        assert self.gate.wait(20)
        if self.away:
            raise StoreUnavailable("away")
        return self.store.tenants.get(tenant)

    async def settled(self) -> None:
        """Waits until nothing asks the store."""
        while self.policies._asking:
            await asyncio.wait(set(self.policies._asking.values()))
            await asyncio.sleep(0)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    store = open_store(f"file://{tmp_path}")
    store.tenants.create("acme")
    store.tenants.update("acme", weight=3, limits={"requests_per_minute": 7})
    return Desk(store)


async def test_a_record_says_what_holds_and_the_defaults_fill_what_it_leaves_open(desk: Desk) -> None:
    assert await desk.policies.of("acme") == TenantPolicy(requests_per_minute=7, concurrency=9, weight=3)


async def test_a_change_holds_after_the_first_request_past_a_second(desk: Desk) -> None:
    await desk.policies.of("acme")
    desk.store.tenants.update("acme", weight=5)
    desk.now = 0.5
    assert (await desk.policies.of("acme")).weight == 3
    assert desk.reads == 1
    desk.now = 1.0
    assert (await desk.policies.of("acme")).weight == 3, "the request itself does not wait"
    await desk.settled()
    assert (await desk.policies.of("acme")).weight == 5


async def test_who_was_away_is_asked_about_first(desk: Desk) -> None:
    await desk.policies.of("acme")
    desk.store.tenants.update("acme", weight=5)
    desk.now = STALE_S
    assert (await desk.policies.of("acme")).weight == 5


async def test_a_store_that_is_away_leaves_what_was_known(desk: Desk) -> None:
    await desk.policies.of("acme")
    desk.away, desk.now = True, 3600
    assert (await desk.policies.of("acme")).weight == 3


async def test_of_whom_nothing_is_known_the_defaults_hold(desk: Desk) -> None:
    desk.away = True
    assert await desk.policies.of("acme") == DEFAULTS
    desk.away = False
    assert await desk.policies.of("nobody") == DEFAULTS
    assert (await desk.policies.of("acme")).weight == 3


async def test_a_store_that_hangs_holds_up_one_request_and_not_for_long(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_policies, "PATIENCE_S", 0.02)
    await desk.policies.of("acme")
    desk.now = STALE_S
    desk.gate.clear()
    assert (await desk.policies.of("acme")).weight == 3
    monkeypatch.setattr(tenant_policies, "PATIENCE_S", 1000)
    assert (await desk.policies.of("acme")).weight == 3, "the second does not wait"
    desk.gate.set()
    await desk.settled()
    assert desk.reads == 2


async def test_many_first_requests_ask_once(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.policies.of("acme") for _ in range(20)))
    assert {answer.weight for answer in answers} == {3}
    assert desk.reads == 1


async def test_operators_have_no_limits(desk: Desk) -> None:
    assert await desk.policies.of(OPERATORS) == TenantPolicy()
    assert desk.reads == 0


async def test_a_tenant_in_use_is_read_again_before_its_key_and_its_limits_are_too_old(desk: Desk) -> None:
    slept, go = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        assert seconds < min(STALE_S, FRESH_S)
        slept.set()
        await go.wait()
        go.clear()

    desk.policies._in_use._sleep = sleep
    await desk.policies.of("acme")
    desk.store.tenants.update("acme", weight=5)
    desk.now = AGAIN_S
    await slept.wait()
    slept.clear()
    go.set()
    await slept.wait()
    await asyncio.gather(*desk.policies._in_use._asking.values())
    reads = desk.reads
    desk.now = AGAIN_S + 0.9
    assert (await desk.policies.of("acme")).weight == 5
    assert desk.reads == reads, "nobody waits"
    await desk.policies.close()
