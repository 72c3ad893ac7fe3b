"""Removing blobs that no manifest names.

Owns which blobs those are. Ages are taken first and manifests read afterwards, so that a manifest which appears between the two is
seen; each batch is then announced (`adapter_store.sweeps`), and what was announced is looked at once more: its age, and the manifests
that are new. A manifest that cannot be read may name anything, and so may an object of a kind that this version does not know, and a manifest
that is missing though an alias names its version or a job holds its data set: it may come back from a backup, and its blobs
would not. With one of them, none of the tenant's blobs is removed.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice

from adapter_store import layout
from adapter_store.backends.protocol import ObjectMissing
from adapter_store.care import reading
from adapter_store.care.inventory import Found, Inventory, Log
from adapter_store.care.keys import Key, Kind
from adapter_store.care.parallel import each
from adapter_store.care.round import Round
from adapter_store.errors import CorruptRecord, StoreUnavailable
from adapter_store.manifest import AliasRecord, BlobRef, DatasetManifest, HoldRecord, VersionManifest
from adapter_store.sweeps import BudgetSpent, Sweep

MANIFESTS = (Kind.VERSION, Kind.DATASET)
_BATCH = 200  # blobs under one notice; a publisher of the same bytes waits until they are gone


def sweep_blobs(of: Round, tenant: str, inventory: Inventory) -> None:
    """Removes a tenant's orphaned blobs that are older than the grace time.

    Args:
        of: the run.
        tenant: the owner.
        inventory: of the tenant's objects; its blobs were listed before the rest. Takes in what the manifests refer to.

    Raises:
        StoreUnavailable: the store is away, or too slow to remove anything in time.
    """
    unknown = next(inventory.objects(Kind.UNKNOWN), None)
    if unknown:
        what = "this version of Graftwork does not know this object, so no blob of its tenant is removed"
        of.leave_alone(unknown.key.text, what, "remove the object, or collect with the version that wrote it")
        return
    try:
        _read_manifests(of, inventory, (found.key for found in inventory.objects(*MANIFESTS)))
        orphans = (orphan for orphan in inventory.orphans() if not _is_kept(of, orphan))
        batch = list(islice(orphans, _BATCH))
        if batch and (lost := next(_lost(of, inventory), None)):
            key, who = lost
            what = f"{who}, and it is not there; so no blob of its tenant is removed, for some may be its own"
            of.leave_alone(key, what, "`graft store check` says how to mend that")
            return
        while batch:
            _sweep(of, tenant, inventory, batch)
            batch = list(islice(orphans, _BATCH))
    except CorruptRecord as error:
        what = f"{error}; it may name any blob, so no blob of its tenant is removed"
        of.leave_alone(layout.tenant(tenant), what, "mend that first: `graft store check`")


def _lost(of: Round, inventory: Inventory) -> Iterator[tuple[str, str]]:
    """Yields the keys of manifests that are needed and missing, with who needs them, for people."""
    for log, record in each(partial(_current, of), chain(*map(inventory.logs, (Kind.ALIAS, Kind.HOLD))), of.parallel):
        tenant, needed = log.newest.key.tenant, list[tuple[str, str]]()
        if isinstance(record, AliasRecord) and not record.removed:
            who = f"alias {record.alias} of adapter {record.adapter} names this version"
            needed = [(layout.version(tenant, record.adapter, share.version), who) for share in record.shares]
        elif isinstance(record, HoldRecord) and record.state == "held":
            who = f"job {record.job} holds this data set"
            needed = [(layout.dataset(tenant, dataset), who) for dataset in record.datasets]
        for key, who in needed:
            # Looked up once more: it may have come since the walk.
            if not inventory.has(key) and of.backend.entry(key) is None:
                yield key, who


def _current(of: Round, log: Log) -> tuple[Log, reading.Stored | None]:
    try:
        return log, reading.read(of.backend, log.newest.key)
    except ObjectMissing:  # another collector has removed a hold
        return log, None


def _is_kept(of: Round, orphan: Found) -> bool:
    if orphan.modified < of.young_since:
        return False
    of.kept.add("blobs without a manifest, younger than the grace time", size=orphan.size)
    return True


def _sweep(of: Round, tenant: str, inventory: Inventory, batch: list[Found]) -> None:
    while batch:
        left: list[Found] = []
        gone = batch
        if not of.dry_run:
            left, gone = _sweep_once(of, tenant, inventory, batch)
        of.removed.add("blobs", len(gone), sum(blob.size for blob in gone))
        if len(left) == len(batch):
            raise StoreUnavailable("the store is too slow to look at a batch of blobs in a minute; try again later")
        batch = left


def _sweep_once(of: Round, tenant: str, inventory: Inventory, batch: list[Found]) -> tuple[list[Found], list[Found]]:
    """Announces blobs, looks again and removes them. Returns what is left for another notice, and what is gone."""
    with of.sweeps.announced(tenant, [blob.key.text for blob in batch], of.now) as sweep:
        _read_manifests(of, inventory, _new_manifests(of, tenant, inventory))
        unnamed = [blob for blob in batch if not inventory.is_referred(tenant, blob.key.name)]
        done = list(zip(unnamed, each(partial(_remove, of, sweep), unnamed, of.parallel), strict=True))
    return [blob for blob, gone in done if gone is None], [blob for blob, gone in done if gone]


def _remove(of: Round, sweep: Sweep, blob: Found) -> bool | None:
    """Removes a blob that is still old; False: it was written anew, None: the notice is too old."""
    entry = of.backend.entry(blob.key.text)
    if entry is None or of.is_young(entry):
        return False
    try:
        sweep.remove(blob.key.text)
    except BudgetSpent:
        return None
    return True


def _new_manifests(of: Round, tenant: str, inventory: Inventory) -> list[Key]:
    """Manifests that have appeared since the inventory was taken; they are in it now."""
    walks = (of.backend.walk(prefix) for prefix in (layout.adapters(tenant), layout.datasets(tenant)))
    entries = [entry for walk in walks for entry in walk if not inventory.has(entry.key)]
    return [found.key for found in inventory.add(entries) if found.key.kind in MANIFESTS]


def _read_manifests(of: Round, inventory: Inventory, keys: Iterable[Key]) -> None:
    total = inventory.count(*MANIFESTS)
    for number, manifest in enumerate(each(partial(_read, of), keys, of.parallel), 1):
        of.report.progress("reading manifests", number, total)
        if manifest:
            key, blobs = manifest
            inventory.refer(key.tenant, key.text, blobs)


def _read(of: Round, key: Key) -> tuple[Key, tuple[BlobRef, ...]] | None:
    try:
        manifest = reading.read(of.backend, key)
    except ObjectMissing:  # another collector has removed it
        return None
    assert isinstance(manifest, VersionManifest | DatasetManifest)
    return key, manifest.blobs
