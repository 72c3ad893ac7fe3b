"""What a tenant may have running and waiting, from its record in the store.

Owns how long an answer is trusted, and what holds while the store is away: what was known. Does not own the limits
(`adapter_store.tenants`) nor their enforcement (`queue`, `jobs`).
"""

import threading
import time
from collections.abc import Callable

from adapter_store.errors import NotFound, StoreUnavailable
from adapter_store.manifest import TenantRecord
from adapter_store.tenants import FRESH_S

NONE_AT_ALL = -1
"""Of running jobs: the tenant is disabled, its jobs wait."""


class TenantLimits:
    """Limits of all tenants.

    Args:
        read: returns a tenant's record from the store.
        max_queued: jobs that any tenant may have waiting, whatever its own limit.
        clock: seconds, monotonic.
    """

    def __init__(
        self, read: Callable[[str], TenantRecord], max_queued: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._max_queued, self._clock = read, max_queued, clock
        self._known: dict[str, tuple[float, TenantRecord]] = {}
        self._lock = threading.Lock()

    def running(self, tenant: str) -> int:
        """Returns how many jobs the tenant may have running; 0: any number, NONE_AT_ALL: none."""
        record = self._record(tenant)
        if record is None:  # the store is away: a job that starts now waits for it by itself
            return 0
        return NONE_AT_ALL if record.disabled else record.limits.max_running_jobs

    def queued(self, tenant: str) -> int:
        """Returns how many jobs the tenant may have waiting."""
        record = self._record(tenant)
        own = record.limits.max_queued_jobs if record is not None else 0
        return min(own, self._max_queued) if own else self._max_queued

    def _record(self, tenant: str) -> TenantRecord | None:
        with self._lock:
            known = self._known.get(tenant)
        if known is not None and known[0] > self._clock():
            return known[1]
        try:
            record = self._read(tenant)
        except (StoreUnavailable, NotFound):
            return known[1] if known is not None else None
        with self._lock:
            self._known[tenant] = (self._clock() + FRESH_S, record)
        return record
