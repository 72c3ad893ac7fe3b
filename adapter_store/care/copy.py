"""Copying a store into another one: verified on the way, again at the end, and to be repeated until there is nothing left.

Owns the order, in which nothing is visible in the destination before everything that it names is there: blobs, what says that
something is deleted, manifests, holds, tenants, aliases, merged weights and then their manifests. A log's newest record goes first: it is what the log says now, while older ones
name versions that are long gone, keys that are revoked, jobs that have ended; what is missing behind it is history, until the run is
through. What the destination has already is compared and not written again, so a run that was killed is repeated, and goes on; so is
one during which the source was in use.
Does not own how one object is brought over (`bring`) nor what counts as equal (`compare`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.care.bring import Bringing
from adapter_store.care.compare import differences
from adapter_store.care.inventory import Found, Inventory
from adapter_store.care.keys import Kind
from adapter_store.care.parallel import each
from adapter_store.care.reading import describe
from adapter_store.care.report import Finding, Report, Severity
from adapter_store.errors import CopyRefused, StoreUnavailable

_SHOWN = 3  # contradictions that the refusal names


@dataclass(frozen=True, slots=True)
class Copied:
    """A finished run."""

    compared: int
    """Objects of both stores that were looked at in the end."""
    objects: int
    """Written by this run."""
    bytes: int
    left_out: int
    """Objects that are damaged in the source, or name one that is; the destination lacks them."""
    behind: int
    """Objects that came into the source meanwhile; another run brings them."""
    unknown: int
    """Objects that this version does not know; they are not copied."""

    def plain(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def copy(source: Backend, destination: Backend, report: Report, *, parallel: int = 1) -> Copied:
    """Makes the destination hold all that the source holds. It may hold other tenants besides.

    Args:
        source: may be in use.
        destination: a store that passed the probe; nobody should use it, or collect its garbage, before a copy is complete.
        report: told of progress and of what is left out.
        parallel: objects under way at once; each blob takes its size on the disk of temporary files.

    Raises:
        CopyRefused: they are one store, or the destination holds what the source contradicts. Nothing was written over.
        StoreUnavailable: one of them is away, or the destination does not keep what it takes.
    """
    _refuse_the_same(source, destination)
    with Inventory() as todo, Bringing(source, destination, report) as bringing:
        unknown = _plan(source, destination, todo, report, parallel)
        bringing.expect(todo.bytes(Kind.BLOB) + todo.bytes(Kind.MERGED))
        _run(todo, bringing, parallel)
        compared, behind = _verify(source, destination, todo, bringing, report, parallel)
        return Copied(compared, bringing.objects, bringing.bytes, len(bringing.left_out), behind, unknown)


def _refuse_the_same(source: Backend, destination: Backend) -> None:
    key = layout.probe_object()
    destination.create(key, b"copy")
    try:
        if source.entry(key) is not None:
            raise CopyRefused("source and destination are one store; name another destination")
    finally:
        destination.delete(key)


def _plan(source: Backend, destination: Backend, todo: Inventory, report: Report, parallel: int) -> int:
    """Collects what is to be copied; returns how many objects are of unknown kinds. Nothing has been written before it is known
    that nothing contradicts."""
    unknown, contradictions = 0, []
    for difference in differences(source, destination, parallel, _progress(report, "comparing")):
        found = difference.found
        if difference.contradicts:
            contradictions.append(found)
        elif found.key.kind is Kind.UNKNOWN:
            unknown += 1
            what = "this version of Graftwork does not know this object; it is not copied"
            report.finding(Finding(Severity.WARNING, found.key.text, what, "copy it by other means if it matters"))
        else:
            todo.keep([found])
    if contradictions:
        named = ", ".join(describe(found.key) for found in contradictions[:_SHOWN])
        raise CopyRefused(
            f"the destination holds {len(contradictions)} objects that contradict the source, among them {named}; "
            "copy to an empty place, or remove there what is not wanted"
        )
    return unknown


def _run(todo: Inventory, bringing: Bringing, parallel: int) -> None:
    def documents(what: str, bring: Callable[[Found], None], *kinds: Kind) -> None:
        total = todo.count(*kinds)
        for number, _ in enumerate(each(bring, todo.objects(*kinds), parallel), 1):
            bringing.report.progress(f"copying {what}", number, total)

    def logs(what: str, kind: Kind) -> None:
        total, done = todo.count(kind), 0
        by_log = groupby(todo.objects(kind), key=lambda found: found.key.log)
        for records in each(bringing.log, (list(records) for _, records in by_log), parallel):
            done += records
            bringing.report.progress(f"copying {what}", done, total)

    for _ in each(bringing.blob, todo.objects(Kind.BLOB), parallel):
        pass
    logs("deletions", Kind.VERSION_DELETION)
    logs("deletions of data sets", Kind.DATASET_DELETION)
    documents("manifests", bringing.manifest, Kind.VERSION, Kind.DATASET)
    documents("signatures", bringing.signature, Kind.SIGNATURE)
    logs("holds", Kind.HOLD)
    logs("tenants", Kind.TENANT)
    logs("aliases", Kind.ALIAS)
    for _ in each(bringing.merged, todo.objects(Kind.MERGED), parallel):
        pass
    documents("audit entries", bringing.entry, Kind.AUDIT)
    documents("manifests of merged weights", bringing.merged_manifest, Kind.MERGED_MANIFEST)


def _verify(
    source: Backend, destination: Backend, todo: Inventory, bringing: Bringing, report: Report, parallel: int
) -> tuple[int, int]:
    """Compares once more. Returns how many objects were compared, and how many the source has got meanwhile."""
    compared = behind = 0

    def seen(number: int) -> None:
        nonlocal compared
        compared = number
        report.progress("verifying", number, None)

    for difference in differences(source, destination, parallel, seen):
        key = difference.found.key
        if difference.contradicts:
            raise CopyRefused(
                f"{describe(key)} was written in the destination meanwhile; nobody may use it before it is complete"
            )
        if key.text in bringing.left_out or key.kind is Kind.UNKNOWN:
            continue
        if todo.has(key.text):
            raise StoreUnavailable(f"the destination does not show {key.text}, which it has accepted; copy again")
        behind += 1
    return compared, behind


def _progress(report: Report, phase: str) -> Callable[[int], None]:
    return lambda number: report.progress(phase, number, None)
