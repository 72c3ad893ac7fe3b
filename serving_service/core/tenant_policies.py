"""Tenants' limits and weights as serving needs them: at once, and whatever the store does.

Owns how long an answer is trusted and what holds meanwhile. Does not own the records (`adapter_store.tenants`) or what the
limits mean (`admission_limits`).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from adapter_store.errors import NotFound, StoreError
from adapter_store.manifest import TenantRecord
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.in_use import NamesInUse

FRESH_S = 1.0
"""For so long an answer is used as it is; an older one is used once more while the store is asked in the background."""
STALE_S = 5.0
"""From then on the store is asked first: the tenant was away, and its limits may be of another day."""
AGAIN_S = 3.0
"""A tenant that is in use is asked for again. Less than its key is trusted for, too (`adapter_store.tenants.FRESH_S`), which the same
record holds: a reading here is one there."""
PATIENCE_S = 1.0
"""Longest that a request waits for the store here."""
_KEPT = 4096  # tenants remembered

OPERATORS = ""
"""The account of calls with an operator's key; it has no limits."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    policy: TenantPolicy
    asked: float
    """When the store was asked, by our clock; not when it answered."""


class TenantPolicies:
    """Limits of all tenants.

    Args:
        read: returns a tenant's record from the store; sync and thread-safe.
        defaults: what holds where a tenant's record says 0, and for a tenant of whom nothing could be read.
        clock: seconds, monotonic.
    """

    def __init__(
        self, read: Callable[[str], TenantRecord], defaults: TenantPolicy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._defaults, self._clock = read, defaults, clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._in_use: NamesInUse[str] = NamesInUse(self._ask, AGAIN_S, clock)

    async def of(self, tenant: str) -> TenantPolicy:
        """Returns a tenant's limits and weight; never raises, and waits for the store for at most PATIENCE_S."""
        if tenant == OPERATORS:
            return TenantPolicy()
        known = self._known.get(tenant)
        age = self._clock() - known.asked if known else STALE_S
        if age >= FRESH_S:
            # While a store hangs, one request for each of its time limits waits here, and not every one.
            first = tenant not in self._asking
            asking = self._ask(tenant)
            if known is None or (first and age >= STALE_S):
                await asyncio.wait({asking}, timeout=PATIENCE_S)
                known = self._known.get(tenant)
        if known is None:
            return self._defaults
        self._known.move_to_end(tenant)
        self._in_use.used(tenant)
        return known.policy

    async def close(self) -> None:
        """Ends what still asks the store."""
        await self._in_use.close()
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _ask(self, tenant: str) -> "asyncio.Task[bool]":
        """Reads a tenant's record; one reading at a time, however many requests want it."""
        task = self._asking.get(tenant)
        if task is None:
            task = self._asking[tenant] = asyncio.create_task(self._refresh(tenant), name=f"limits of {tenant}")
            task.add_done_callback(lambda _: self._asking.pop(tenant, None))
        return task

    async def _refresh(self, tenant: str) -> bool:
        """Returns whether the store had an answer."""
        asked = self._clock()
        try:
            record = await asyncio.to_thread(self._read, tenant)
        except NotFound:
            return False
        except (StoreError, OSError) as error:
            log.warning("limits not read; the last known ones hold", tenant=tenant, cause=str(error))
            return False
        self._known[tenant] = _Known(_policy(record, self._defaults), asked)
        self._known.move_to_end(tenant)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return True


def _policy(record: TenantRecord, defaults: TenantPolicy) -> TenantPolicy:
    limits = record.limits
    return replace(
        defaults,
        requests_per_minute=limits.requests_per_minute or defaults.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute or defaults.tokens_per_minute,
        concurrency=limits.concurrency or defaults.concurrency,
        queue_length=limits.queue_length or defaults.queue_length,
        weight=record.weight,
    )
