"""Garbage collection: one run over a whole store.

Owns the order. Per tenant: the blobs are listed first, then everything else (`orphans` says why); what was deleted long ago goes
(`purge`), then blobs that no manifest names (`orphans`), then leftovers. Tenants come one after the other, so that what is held about
one is all that is held. A run that dies at any point has removed only what was to be removed, and the next one goes on.

May run beside services and beside other collectors. Never removed is what an alias names, what a job holds, what was deleted less long
ago than its grace time, and what was written less long ago than the grace time of the run.
"""

from collections.abc import Iterator
from datetime import timedelta
from itertools import takewhile
from typing import Any

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.care.inventory import Inventory
from adapter_store.care.keys import Kind
from adapter_store.care.leftovers import clear_store, clear_tenant
from adapter_store.care.orphans import sweep_blobs
from adapter_store.care.purge import purge_tenant
from adapter_store.care.report import Report
from adapter_store.care.round import GRACE, Round
from adapter_store.clock import store_now
from adapter_store.errors import InvalidName
from adapter_store.names import parse_id
from adapter_store.paging import MAX_SIZE
from adapter_store.sweeps import Sweeps

_LAST = "~"  # sorts behind every character that keys have


def collect(
    backend: Backend,
    report: Report,
    *,
    grace: timedelta = GRACE,
    dry_run: bool = False,
    parallel: int = 1,
    sweeps: Sweeps | None = None,
) -> Round:
    """Removes what nothing protects.

    Args:
        backend: a store that passed the probe.
        report: told of progress and of what had to be left alone.
        grace: age up to which nothing that is not named is removed; commands do not take less than `round.LEAST_GRACE`.
        dry_run: removes nothing, and says what would be.
        parallel: requests at once.
        sweeps: replaced in tests.

    Raises:
        StoreUnavailable: the store is away. What was removed until then was to be removed.
    """
    of = Round(backend, sweeps or Sweeps(backend), report, store_now(backend), grace, dry_run, parallel)
    tenants = list(_tenants(of))
    with Inventory() as versions:
        for number, tenant in enumerate(tenants):
            report.progress("tenants", number, len(tenants))
            _collect_tenant(of, tenant, versions)
        report.progress("tenants", len(tenants), len(tenants))
        clear_store(of, versions)
    return of


def summary(of: Round) -> dict[str, Any]:
    """Returns a run as JSON values."""
    return {
        "dry_run": of.dry_run,
        "now": of.now.isoformat(),
        "grace_seconds": of.grace.total_seconds(),
        "removed": of.removed.plain(),
        "kept": of.kept.plain(),
        "left_alone": len(of.left_alone),
    }


def _tenants(of: Round) -> Iterator[str]:
    after = ""
    while names := of.backend.children(layout.TENANTS, after=after, limit=MAX_SIZE):
        for name in names:
            try:
                yield parse_id("tenant", name.removesuffix("/"))
            except InvalidName:
                what = "this is no tenant of this store"
                of.leave_alone(layout.TENANTS + name, what, "remove it if you know where it comes from")
        after = names[-1]


def _collect_tenant(of: Round, tenant: str, versions: Inventory) -> None:
    with Inventory() as inventory:
        prefix = layout.tenant(tenant)
        blobs = layout.blobs(tenant)
        for entries in (
            of.backend.walk(blobs),
            takewhile(lambda entry: entry.key < blobs, of.backend.walk(prefix)),
            of.backend.walk(prefix, after=blobs + _LAST),
        ):
            for number, _ in enumerate(inventory.add(entries), 1):
                of.report.progress("listing", number, None)
        if not inventory.count(Kind.TENANT):
            what = "objects of a tenant without a record; nothing of it is removed"
            of.leave_alone(prefix, what, "restore the tenant's record, or create the tenant again")
        else:
            purge_tenant(of, tenant, inventory)
            sweep_blobs(of, tenant, inventory)
            clear_tenant(of, tenant, inventory)
        versions.keep(inventory.objects(Kind.VERSION))
