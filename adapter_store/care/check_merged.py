"""The check of merged weights: what their manifests name is there, has its size and, when every byte is read, its digest.

They are derived, so nothing here is more than a warning: the serving service that meets damaged ones merges again.
"""

from typing import TYPE_CHECKING

from adapter_store import layout
from adapter_store.blobs import digest_of
from adapter_store.care.inventory import Found
from adapter_store.care.keys import Key, Kind
from adapter_store.care.parallel import each
from adapter_store.care.report import Severity
from adapter_store.merged import MergedManifest

if TYPE_CHECKING:
    from adapter_store.care.check import Check

REPLACE = "nothing is lost: the serving service that needs them removes them and merges again"


def check_merged(run: "Check", manifest: Key, document: MergedManifest) -> None:
    """Compares a manifest with the files that it names."""
    for file in document.files:
        key = layout.merged_file(document.base_digest, document.version, file.sha256)
        if run.inventory.size(key) == file.size:
            continue
        # Looked up once more: it may have been written, or removed with its manifest, since the walk.
        entry = run.backend.entry(key)
        if (entry and entry.size == file.size) or run.backend.entry(manifest.text) is None:
            continue
        has = f"has {entry.size} bytes instead of {file.size}" if entry else "is not there"
        run.found(Severity.WARNING, key, f"{file.path} of the merged weights of {document.version[:12]} {has}", REPLACE)


def read_merged(run: "Check") -> None:
    """Reads every byte of merged weights."""
    done, total = 0, run.inventory.bytes(Kind.MERGED)

    def digest(found: Found) -> tuple[Found, str | None]:
        return found, digest_of(run.backend, found.key.text)[0]

    for found, seen in each(digest, run.inventory.objects(Kind.MERGED), run.parallel):
        done += found.size
        run.report.progress("reading merged weights", done, total, "bytes")
        if seen not in (None, found.key.file):  # None: removed since it was listed
            what = f"its bytes have the sha256 {seen}, and are merged weights of {found.key.name[:12]}"
            run.found(Severity.WARNING, found.key.text, what, REPLACE)
