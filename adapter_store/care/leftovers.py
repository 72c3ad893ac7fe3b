"""Removing what nobody will miss: traces of writers that died, ended jobs' holds, merged weights of versions that are gone.

Owns what counts as such. Everything here is older than the grace time, and nothing here is named by a manifest.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import chain, groupby, islice

from adapter_store import layout
from adapter_store.backends.protocol import ObjectMissing
from adapter_store.care import reading
from adapter_store.care.inventory import Found, Inventory, Log, recognised
from adapter_store.care.keys import Kind
from adapter_store.care.parallel import each
from adapter_store.care.round import Round
from adapter_store.errors import CorruptRecord
from adapter_store.manifest import HoldRecord
from adapter_store.sweeps import BudgetSpent, Sweep

_BATCH = 100  # jobs under one notice
_HOLDS = "holds of ended jobs"


def clear_tenant(of: Round, tenant: str, inventory: Inventory) -> None:
    """Removes a tenant's dead notices, holds of ended jobs, and signatures whose version is gone."""
    _delete(of, "notices of removal", inventory.objects(Kind.SWEEP))
    ended = (log for log in inventory.logs(Kind.HOLD) if _is_released(of, log))
    while batch := list(islice(ended, _BATCH)):
        _clear_holds(of, tenant, [list(inventory.records(log)) for log in batch])
    signatures = groupby(inventory.objects(Kind.SIGNATURE), key=lambda found: (found.key.adapter, found.key.name))
    for (adapter, version), found in signatures:
        manifest = layout.version(tenant, adapter, version)
        if not inventory.has(manifest):
            _clear_signatures(of, tenant, manifest, [one for one in found if one.modified < of.young_since])


def clear_store(of: Round, versions: Inventory) -> None:
    """Removes merged weights whose version no tenant has or whose publisher died, probes, and writes that never ended.

    Args:
        of: the run.
        versions: holds the manifests of all tenants' versions.
    """
    found = recognised(of.backend.walk(layout.MERGED))
    for (_, version), objects in groupby(found, key=lambda one: (one.key.base, one.key.name)):
        parts = list(objects)
        is_used = versions.has_version(version) and any(one.key.kind is Kind.MERGED_MANIFEST for one in parts)
        # As a whole or not at all: half of merged weights would be taken for damaged ones. The manifest first, which sorts so:
        # without it nobody looks for the rest.
        if version and not is_used and all(one.modified < of.young_since for one in parts):
            _delete(of, "merged weights", parts[:1])
            _delete(of, "merged weights", parts[1:])
    _delete(of, "probes", recognised(of.backend.walk(layout.PROBES)))
    for write in of.backend.unfinished():
        if not of.is_young(write):
            if not of.dry_run:
                of.backend.discard(write)
            of.removed.add("unfinished writes", size=write.size)


def _is_released(of: Round, log: Log) -> bool:
    if log.newest.modified >= of.young_since:
        return False
    try:
        record = reading.read(of.backend, log.newest.key)
    except (ObjectMissing, CorruptRecord):  # `graft store check` tells of a damaged one; until then it holds
        return False
    return isinstance(record, HoldRecord) and record.state == "released"


def _clear_holds(of: Round, tenant: str, logs: list[list[Found]]) -> None:
    """Removes logs of ended jobs; each newest record first, as listed. One of them that is young keeps its log: a copy writes the newest
    record first."""
    logs = [records for records in logs if all(one.modified < of.young_since for one in records)]
    if of.dry_run:
        for one in chain.from_iterable(logs):
            of.removed.add(_HOLDS, size=one.size)
    elif logs:
        keys = [one.key.text for one in chain.from_iterable(logs)]
        with of.sweeps.announced(tenant, keys, of.now) as sweep, suppress(BudgetSpent):  # the next run has the rest
            for _ in each(partial(_clear_hold, of, sweep), logs, of.parallel):
                pass


def _clear_hold(of: Round, sweep: Sweep, records: list[Found]) -> None:
    """Removes one log if it still says what was listed: another collector may have removed it, and a job have begun it anew."""
    newest = records[0].key  # of what was listed; a foreign object in its place is no record
    if newest.number is None or of.backend.children(newest.log, limit=1) != [newest.text.removeprefix(newest.log)]:
        return
    entry = of.backend.entry(newest.text)
    if entry is None or of.is_young(entry):
        return
    # Oldest first, one by one: with its last record gone, a log would say `held` again.
    for one in reversed(records):
        sweep.remove(one.key.text)
        of.removed.add(_HOLDS, size=one.size)


def _clear_signatures(of: Round, tenant: str, manifest: str, found: list[Found]) -> None:
    if not found:
        return
    if of.dry_run:
        of.removed.add("signatures", len(found))
        return
    # The manifest's key is announced too: its publisher waits, or it is there already.
    keys = [one.key.text for one in found]
    with of.sweeps.announced(tenant, [manifest, *keys], of.now) as sweep:
        if of.backend.entry(manifest) is None:
            with suppress(BudgetSpent):  # the next run has the rest
                for key in keys:
                    sweep.remove(key)
                    of.removed.add("signatures")


def _delete(of: Round, what: str, found: Iterable[Found]) -> None:
    """Deletes what is older than the grace time."""
    old = (one for one in found if one.modified < of.young_since)

    def delete(one: Found) -> int:
        if not of.dry_run:
            of.backend.delete(one.key.text)
        return one.size

    for size in each(delete, old, of.parallel):
        of.removed.add(what, size=size)
