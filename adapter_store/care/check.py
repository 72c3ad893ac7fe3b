"""The check: walks a whole store and says what is damaged, what looks wrong, and what to do about it. Changes nothing.

Owns the order and the questions that need the whole walk: logs, aliases, tenants. Does not own documents (`reading`), blobs
(`check_blobs`) nor merged weights (`check_merged`). May run beside services: what seems to be missing is looked up once more before it is reported.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any

from adapter_store import layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.care import reading
from adapter_store.care.check_blobs import COLLECT, check_blobs
from adapter_store.care.check_merged import REPLACE, check_merged, read_merged
from adapter_store.care.inventory import Found, Inventory, Log
from adapter_store.care.keys import LOGS, Key, Kind
from adapter_store.care.parallel import each
from adapter_store.care.reading import MODELS, Stored, describe
from adapter_store.care.report import Finding, Report, Severity
from adapter_store.clock import store_now
from adapter_store.errors import CorruptRecord
from adapter_store.manifest import AliasRecord, DatasetManifest, DeletionRecord, HoldRecord, VersionManifest
from adapter_store.merged import MergedManifest

OLD_HOLD = timedelta(days=30)
"""A job that has held a data set for longer is asked after."""
_RESTORE = "restore the object from a backup, or copy the store from one that has it (`graft store copy`)"


@dataclass
class Check:
    """One run: what its parts share, and what it counts."""

    backend: Backend
    report: Report
    inventory: Inventory
    parallel: int
    deep: bool
    objects: int = 0
    bytes: int = 0
    findings: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(Severity, 0))

    def found(self, severity: Severity, key: str, what: str, todo: str) -> None:
        """Reports a finding; call it from the run's own thread."""
        self.findings[severity] += 1
        self.report.finding(Finding(severity, key, what, todo))

    @cached_property
    def now(self) -> datetime:
        """The store's time. Asking writes a probe, so only who needs it asks."""
        return store_now(self.backend)


def check(backend: Backend, report: Report, *, deep: bool = False, parallel: int = 1) -> dict[str, Any]:
    """Looks at every object of a store.

    Args:
        backend: the store.
        report: told of progress and findings.
        deep: reads every blob and all merged weights, instead of comparing sizes only.
        parallel: requests at once.

    Returns:
        Counts, as JSON values.

    Raises:
        StoreUnavailable: the store is away.
    """
    with Inventory() as inventory:
        run = Check(backend, report, inventory, parallel, deep)
        _walk(run)
        _check_documents(run)
        for kind in LOGS:
            for log in inventory.logs(kind):
                _check_numbers(run, log)
        for tenant in inventory.tenants_without(Kind.TENANT):
            todo = "restore the tenant's record from a backup; garbage collection leaves this tenant alone until then"
            run.found(Severity.DAMAGED, layout.tenant(tenant), f"tenant {tenant} has objects and no record", todo)
        check_blobs(run)
        if deep:
            read_merged(run)
        _check_leftovers(run)
        found = {f"{severity}": number for severity, number in run.findings.items()}
        return {"deep": deep, "objects": run.objects, "bytes": run.bytes, "findings": found}


def _walk(run: Check) -> None:
    for found in run.inventory.add(run.backend.walk(layout.ROOT)):
        run.objects += 1
        run.bytes += found.size
        run.report.progress("listing", run.objects, None)
        if found.key.kind is Kind.UNKNOWN:
            todo = "remove it if you know where it comes from; garbage collection keeps its tenant's blobs until then"
            run.found(Severity.WARNING, found.key.text, "this version of Graftwork does not know this object", todo)


def _check_documents(run: Check) -> None:
    kinds = [kind for kind in MODELS if kind is not Kind.SWEEP]
    total = run.inventory.count(*kinds)
    documents = each(partial(_read, run.backend), run.inventory.objects(*kinds), run.parallel)
    for number, (found, document) in enumerate(documents, 1):
        run.report.progress("reading documents", number, total)
        if isinstance(document, CorruptRecord) and found.key.kind is Kind.MERGED_MANIFEST:
            run.found(Severity.WARNING, found.key.text, str(document), REPLACE)
        elif isinstance(document, CorruptRecord):
            run.found(Severity.DAMAGED, found.key.text, str(document), _RESTORE)
        elif document is not None:
            _check_document(run, found, document)


def _read(backend: Backend, found: Found) -> tuple[Found, Stored | CorruptRecord | None]:
    try:
        return found, reading.read(backend, found.key)
    except CorruptRecord as error:
        return found, error
    except ObjectMissing:  # collected since it was listed
        return found, None


def _check_document(run: Check, found: Found, document: Stored) -> None:
    """What one document says about others."""
    if isinstance(document, VersionManifest | DatasetManifest):
        run.inventory.refer(found.key.tenant, found.key.text, document.blobs)
    elif isinstance(document, MergedManifest):
        check_merged(run, found.key, document)
    elif (newest := run.inventory.newest(found.key.log)) and newest.key != found.key:
        return  # history: what it names may be long gone
    elif isinstance(document, AliasRecord) and not document.removed:
        for share in document.shares:
            _check_named(run, found.key, share.version)
    elif isinstance(document, DeletionRecord):
        _check_deletion(run, found.key, document)
    elif isinstance(document, HoldRecord) and document.state == "held":
        _check_hold(run, found, document)


def _check_named(run: Check, alias: Key, version: str) -> None:
    """An alias's version is there and not deleted."""
    todo = f"`graft adapter rollback {alias.adapter} --tenant {alias.tenant}`, or promote another version"
    manifest = layout.version(alias.tenant, alias.adapter, version)
    if not run.inventory.has(manifest) and run.backend.entry(manifest) is None:
        what = f"alias {alias.name} of adapter {alias.adapter} names version {version[:12]}, which is not there"
        run.found(Severity.DAMAGED, alias.text, what, todo)
        return
    log = layout.deletion_log(alias.tenant, alias.adapter, version)
    if newest := run.inventory.newest(log):
        _, record = _read(run.backend, newest)
        if isinstance(record, DeletionRecord) and record.hides:
            what = (
                f"alias {alias.name} of adapter {alias.adapter} names version {version[:12]}, which is {record.state}"
            )
            run.found(Severity.WARNING, alias.text, what, todo)


def _check_deletion(run: Check, key: Key, record: DeletionRecord) -> None:
    of_version = key.kind is Kind.VERSION_DELETION
    thing = f"version {key.name[:12]} of adapter {key.adapter}" if of_version else f"data set {key.name}"
    if record.state == "purging":
        what = f"the removal of {thing} has begun and not ended"
        run.found(Severity.NOTE, key.text, what, "`graft store gc` goes on with it")
    elif record.state == "deleted":
        at = layout.version(key.tenant, key.adapter, key.name) if of_version else layout.dataset(key.tenant, key.name)
        if not run.inventory.has(at) and run.backend.entry(at) is None:
            what = f"{thing} was deleted and kept for a while, but its manifest is not there"
            run.found(Severity.WARNING, at, what, "restore it from a backup if the deletion may have to be undone")


def _check_hold(run: Check, found: Found, record: HoldRecord) -> None:
    age = run.now - found.modified
    if age > OLD_HOLD:
        what = f"job {record.job} has kept {', '.join(record.datasets)} for {age.days} days"
        todo = f"if no trainer knows the job any more: `graft store release {record.job} --tenant {record.tenant}`"
        run.found(Severity.WARNING, found.key.text, what, todo)


def _check_numbers(run: Check, log: Log) -> None:
    """A log's numbers have no gaps; one of an ended job's holds may have lost its beginning to garbage collection."""
    key = log.newest.key
    first = log.first if key.kind is Kind.HOLD else 1
    missing = log.last - first + 1 - log.records
    if missing:
        what = f"the log that ends with {describe(key)} lacks {missing} of its records"
        run.found(Severity.DAMAGED, key.log, what, _RESTORE)


def _check_leftovers(run: Check) -> None:
    for kind in (Kind.PROBE, Kind.SWEEP):
        if number := run.inventory.count(kind):
            what = f"{number} of the kind '{kind}', which usually live for seconds"
            run.found(Severity.NOTE, layout.PROBES if kind is Kind.PROBE else layout.TENANTS, what, COLLECT)
    unfinished = sum(1 for _ in run.backend.unfinished())
    if unfinished:
        what = f"{unfinished} writes that have not ended: under way, or of writers that died"
        run.found(Severity.NOTE, layout.ROOT, what, COLLECT)
