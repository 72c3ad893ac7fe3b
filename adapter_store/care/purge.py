"""Removing what was deleted long ago: versions that no alias names, data sets that no job holds.

Owns the collector's moves in `manifest.DeletionRecord`: `deleted` -> `purging` -> manifest gone -> `purged`. From `purging` on nobody
may bring the thing back, so the two looks at what protects it are one before that record and one after it. Whoever came to name it
between them (an alias that was looking while it was still visible) finds `purging` when it looks back, and goes back itself; should
it have died before that, the second look finds its record, and the thing stays as it is until the alias has moved.

The manifest goes under a notice (`adapter_store.sweeps`): two collectors may be at the same thing, and the slower one must not remove
the manifest of a publisher who found `purged`. So the state is read again after the notice, and publishers wait for notices.
Signatures go after the manifest that they are over. Blobs are not touched here; without a manifest they are orphans.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import chain, groupby, islice
from typing import Literal

from adapter_store import layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.care import reading
from adapter_store.care.inventory import Inventory, Log
from adapter_store.care.keys import Key, Kind
from adapter_store.care.parallel import each
from adapter_store.care.round import Round
from adapter_store.errors import CorruptRecord, VersionConflict
from adapter_store.holds import Holds
from adapter_store.manifest import AliasRecord, DeletionRecord
from adapter_store.numbered_log import NumberedLog
from adapter_store.paging import MAX_SIZE
from adapter_store.sweeps import BudgetSpent, Sweep

_BATCH = 100  # things under one notice
_BY = "garbage collection"


@dataclass(frozen=True, slots=True)
class Gone:
    """Something whose deletion is over its grace time."""

    name: str
    adapter: str
    """Empty for a data set."""
    log: str
    """Prefix of its deletion log."""
    manifest: str
    """Key of the manifest."""
    signatures: tuple[str, ...]
    """Keys."""
    record: DeletionRecord


class Purge:
    """Removes things of one kind that share what protects them: the versions of an adapter, the data sets of a tenant.

    Args:
        of: the run.
        tenant: the owner.
        protected: looks up, each time anew, the names of what must stay.
        why: what protects it, for people ('an alias names it').
    """

    def __init__(self, of: Round, tenant: str, protected: Callable[[], frozenset[str]], why: str) -> None:
        self._round, self._tenant, self._protected, self._why = of, tenant, protected, why

    def run(self, due: Iterator[Gone]) -> Iterator[Gone]:
        """Removes what is due and not protected; yields it once it is gone (in a dry run: what would go).

        Raises:
            CorruptRecord: what protects cannot be read, so that nothing of these may be removed.
        """
        while batch := list(islice(due, _BATCH)):
            protected = self._protected()
            going = [gone for gone in batch if self._may_begin(gone, protected)]
            if self._round.dry_run:
                yield from going
                continue
            going = [gone for gone in each(self._begin, going, self._round.parallel) if gone]
            while going:
                left, removed = self._sweep(going)
                yield from removed
                going = left

    def _may_begin(self, gone: Gone, protected: frozenset[str]) -> bool:
        if gone.name not in protected:
            return True
        self._keep(gone)
        return False

    def _begin(self, gone: Gone) -> Gone | None:
        """Makes the removal irrevocable; None when somebody took the deletion back."""
        if gone.record.state != "deleted":
            return gone
        try:
            return replace(gone, record=self._append(gone, "purging"))
        except VersionConflict:
            return None

    def _sweep(self, going: Sequence[Gone]) -> tuple[list[Gone], list[Gone]]:
        """Removes manifests and signatures under one notice. Returns what is left for the next one, and what is gone."""
        keys = [key for gone in going for key in (gone.manifest, *gone.signatures)]
        with self._round.sweeps.announced(self._tenant, keys, self._round.now) as sweep:
            remove = partial(self._remove, sweep, self._protected())
            done = list(zip(going, each(remove, going, self._round.parallel), strict=True))
        return [gone for gone, is_gone in done if is_gone is None], [gone for gone, is_gone in done if is_gone]

    def _remove(self, sweep: Sweep, protected: frozenset[str], gone: Gone) -> bool | None:
        """Removes one thing; False: it has to stay, None: the notice is too old."""
        if gone.name in protected:
            self._keep(gone)
            return False
        current = self._log(gone).current()
        if current is None or current.state not in ("purging", "purged"):
            return False  # another collector was at it too, and it was published again since
        try:
            for key in (gone.manifest, *gone.signatures):
                sweep.remove(key)
        except BudgetSpent:
            return None
        if current.state == "purging":
            with suppress(VersionConflict):  # the other collector said so first
                self._append(replace(gone, record=current), "purged")
        return True

    def _keep(self, gone: Gone) -> None:
        self._round.kept.add(self._why)
        if gone.record.state != "deleted":
            what = f"it is being removed, but {self._why}"
            self._round.leave_alone(
                gone.manifest, what, "move the alias, or end the job, then run `graft store gc` again"
            )

    def _append(self, gone: Gone, state: Literal["purging", "purged"]) -> DeletionRecord:
        change = {"number": gone.record.number + 1, "state": state, "at": self._round.now, "by": _BY, "reason": ""}
        return self._log(gone).append(gone.record.model_copy(update=change | {"purge_after": None}))

    def _log(self, gone: Gone) -> NumberedLog[DeletionRecord]:
        return NumberedLog(self._round.backend, gone.log, DeletionRecord, f"deletions of {gone.name[:12]}")


def purge_tenant(of: Round, tenant: str, inventory: Inventory) -> None:
    """Removes a tenant's versions and data sets whose time is over, from the store and from the inventory."""
    versions = groupby(_due(of, inventory, Kind.VERSION_DELETION), key=lambda gone: gone.adapter)
    for adapter, due in versions:
        _run(
            of,
            Purge(of, tenant, partial(_named, of.backend, tenant, adapter), "an alias names it"),
            due,
            "versions",
            inventory,
        )
    purge = Purge(of, tenant, partial(_held, of.backend, tenant), "a running job needs it")
    _run(of, purge, _due(of, inventory, Kind.DATASET_DELETION), "data sets", inventory)


def _run(of: Round, purge: Purge, due: Iterator[Gone], what: str, inventory: Inventory) -> None:
    first = next(due, None)
    if first is None:  # the usual case: nothing is looked up
        return
    try:
        for gone in purge.run(chain([first], due)):
            of.removed.add(what)
            of.removed.add("signatures", len(gone.signatures))
            for key in (gone.manifest, *gone.signatures):
                inventory.forget(key)
    except CorruptRecord as error:
        of.leave_alone(first.log, f"{error}; {what} that were deleted stay", "mend that first: `graft store check`")


def _due(of: Round, inventory: Inventory, kind: Kind) -> Iterator[Gone]:
    """Yields what has been deleted, and for long enough, in the order of the keys."""
    for log, record in each(partial(_newest, of), inventory.logs(kind), of.parallel):
        if record is None or record.state == "live":
            continue
        key = log.newest.key
        gone = _gone(key, record, inventory)
        if record.state == "deleted" and not _is_over(record, log.newest.modified, of.now):
            of.kept.add("deleted less long ago than its grace time")
        elif record.state != "purged" or inventory.has(gone.manifest):
            yield gone


def _newest(of: Round, log: Log) -> tuple[Log, DeletionRecord | None]:
    try:
        record = reading.read(of.backend, log.newest.key)
    except ObjectMissing:
        return log, None
    except CorruptRecord as error:
        of.leave_alone(log.newest.key.text, f"{error}; what it is about stays", "mend that first: `graft store check`")
        return log, None
    assert isinstance(record, DeletionRecord)
    return log, record


def _is_over(record: DeletionRecord, written: datetime, now: datetime) -> bool:
    """Whether a deletion's grace time is over, by its own word and by the store's clock: the clock of the machine that deleted may
    have been wrong, so the time that it granted counts from when the store took the record in."""
    if record.purge_after is None:
        return False
    return max(record.purge_after, written + (record.purge_after - record.at)) <= now


def _gone(key: Key, record: DeletionRecord, inventory: Inventory) -> Gone:
    if key.kind is Kind.DATASET_DELETION:
        return Gone(key.name, "", key.log, layout.dataset(key.tenant, key.name), (), record)
    manifest = layout.version(key.tenant, key.adapter, key.name)
    return Gone(
        key.name, key.adapter, key.log, manifest, inventory.signatures(key.tenant, key.adapter, key.name), record
    )


def _named(backend: Backend, tenant: str, adapter: str) -> frozenset[str]:
    """The versions that an adapter's aliases name now, all of them."""
    named: set[str] = set()
    prefix, after = layout.aliases(tenant, adapter), ""
    while names := backend.children(prefix, after=after, limit=MAX_SIZE):
        for name in names:
            alias = f"alias {name.removesuffix('/')} of adapter {adapter}"
            record = NumberedLog(backend, prefix + name, AliasRecord, alias).current()
            if record and not record.removed:
                named.update(share.version for share in record.shares)
        after = names[-1]
    return frozenset(named)


def _held(backend: Backend, tenant: str) -> frozenset[str]:
    """The data sets that a tenant's jobs hold now."""
    return frozenset(dataset for hold in Holds(backend).held(tenant) for dataset in hold.datasets)
