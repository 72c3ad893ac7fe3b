"""The check of blobs: what manifests name is there, has its size and, when every byte is read, its digest.

Owns findings about blobs. One that several manifests name is reported once.
"""

from itertools import groupby
from typing import TYPE_CHECKING

from adapter_store import layout
from adapter_store.blobs import Blobs
from adapter_store.care.inventory import Found
from adapter_store.care.keys import Kind
from adapter_store.care.parallel import each
from adapter_store.care.report import Severity

if TYPE_CHECKING:
    from adapter_store.care.check import Check

_HEAL = "publish the same content again, restore the object from a backup, or copy it from another store"
COLLECT = "`graft store gc` removes what is older than its grace time"


def check_blobs(run: "Check") -> None:
    """Compares what manifests refer to with the blobs; the inventory holds both."""
    for (tenant, blob), rows in groupby(run.inventory.unmet(), key=lambda row: row[:2]):
        manifests = [manifest for _, _, manifest, _ in rows]
        key = layout.blob(tenant, blob.sha256)
        # Looked up once more: it may have been written, or its manifest collected, since the walk.
        entry = run.backend.entry(key)
        if (entry and entry.size == blob.size) or run.backend.entry(manifests[0]) is None:
            continue
        has = f"has {entry.size} bytes instead of {blob.size}" if entry else "is not there"
        more = f" and {len(manifests) - 1} more" if len(manifests) > 1 else ""
        run.found(Severity.DAMAGED, key, f"a blob of {manifests[0]}{more} {has}", _HEAL)
    orphans = [0, 0]
    for orphan in run.inventory.orphans():
        orphans[0] += 1
        orphans[1] += orphan.size
    if orphans[0]:
        what = f"blobs that no manifest names, as far as those can be read: {orphans[0]}, {orphans[1]} bytes"
        run.found(Severity.NOTE, layout.TENANTS, what, COLLECT)
    if run.deep:
        _read_all(run)


def _read_all(run: "Check") -> None:
    done, total = 0, run.inventory.bytes(Kind.BLOB)
    blobs = Blobs(run.backend)

    def digest(blob: Found) -> tuple[Found, str | None]:
        return blob, blobs.digest(blob.key.tenant, blob.key.name)[0]

    for blob, found in each(digest, run.inventory.objects(Kind.BLOB), run.parallel):
        done += blob.size
        run.report.progress("reading blobs", done, total, "bytes")
        if found in (None, blob.key.name):  # None: collected since it was listed
            continue
        is_named = run.inventory.is_referred(blob.key.tenant, blob.key.name)
        severity = Severity.DAMAGED if is_named else Severity.WARNING
        what = f"its bytes have the sha256 {found}" + ("" if is_named else "; nothing names it")
        run.found(severity, blob.key.text, what, _HEAL if is_named else COLLECT)
