"""Uploaded data sets: a blob and a manifest whose id is derived from the content.

Owns keeping and fetching them. Does not own validation of rows: the trainer's, before it calls `put`.
"""

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path

from adapter_store import documents, layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.blobs import Blobs, hash_file
from adapter_store.deletions import Deletions
from adapter_store.errors import CorruptRecord, InvalidDataset, NotFound
from adapter_store.manifest import DatasetFormat, DatasetManifest, DeletionRecord
from adapter_store.paging import Page, read_page

MAX_BYTES = 4 << 30
"""Largest data set; what the trainer can hold on a small disk."""
_MAX_DISPLAY_NAME = 200


class Datasets:
    """Data sets of all tenants; `Store` hands one out."""

    def __init__(self, backend: Backend, blobs: Blobs, deletions: Deletions) -> None:
        self._backend, self._blobs, self._deletions = backend, blobs, deletions

    def put(self, tenant: str, file: Path, *, display_name: str, format: DatasetFormat, rows: int) -> DatasetManifest:
        """Keeps a validated file. The same content again is the same data set; the first display name stays.

        Args:
            tenant: the owner.
            file: what to keep.
            display_name: for people; cut to 200 characters.
            format: jsonl or parquet.
            rows: how many the validator counted.

        Raises:
            InvalidDataset: empty, larger than MAX_BYTES, or of another format.
            BeingPurged: this content was deleted and is being removed right now.
        """
        size = file.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise InvalidDataset(f"the data set has {size} bytes; between 1 and {MAX_BYTES} are accepted")
        if format not in ("jsonl", "parquet"):
            raise InvalidDataset(f"data-set format {format!r} is unknown; use jsonl or parquet")
        digest, _ = hash_file(file)
        # First of all writes: once this is undone, garbage collection keeps its hands off what follows.
        log = layout.dataset_deletion_log(tenant, dataset_id(digest, format))
        self._deletions.revive(log, tenant, by="upload", reason="uploaded again")
        digest, size = self._blobs.put_file(tenant, file)
        manifest = DatasetManifest(
            tenant=tenant,
            id=dataset_id(digest, format),
            display_name=display_name[:_MAX_DISPLAY_NAME],
            sha256=digest,
            size=size,
            rows=rows,
            format=format,
            created_at=datetime.now(UTC),
        )
        if self._backend.create(layout.dataset(tenant, manifest.id), documents.encode(manifest)):
            return manifest
        return self.read(tenant, manifest.id)

    def get(self, tenant: str, dataset: str) -> DatasetManifest:
        """Raises NotFound when the tenant has no such data set, or has deleted it."""
        if self._deletions.is_hidden(layout.dataset_deletion_log(tenant, dataset)):
            raise _missing(tenant, dataset)
        return self.read(tenant, dataset)

    def delete(self, tenant: str, dataset: str, *, by: str, reason: str) -> DeletionRecord:
        """Hides a data set at once; its bytes stay for the grace time, so that jobs admitted before still find them.

        Raises:
            NotFound: the tenant has no such data set, or has deleted it.
        """
        self.get(tenant, dataset)
        return self._deletions.hide(layout.dataset_deletion_log(tenant, dataset), tenant, by=by, reason=reason)

    def read(self, tenant: str, dataset: str) -> DatasetManifest:
        """Like `get`, also of one that was deleted and still has its bytes: a job that was admitted goes on."""
        what = f"data set {dataset} of tenant {tenant}"
        try:
            manifest = documents.load(self._backend, layout.dataset(tenant, dataset), DatasetManifest, what)
        except ObjectMissing:
            raise _missing(tenant, dataset) from None
        # A manifest copied to another tenant's or data set's place must not be served from there.
        if (manifest.tenant, manifest.id) != (tenant, dataset) or dataset != dataset_id(
            manifest.sha256, manifest.format
        ):
            raise CorruptRecord(f"the manifest of {what} is that of another one; restore it from a backup")
        return manifest

    def list(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[DatasetManifest]:
        """Returns a tenant's data sets in the order of their ids."""
        hidden = self._deletions.hidden_below(layout.dataset_deletions(tenant))

        def load(name: str) -> DatasetManifest | None:
            dataset = name.removesuffix(".json")
            return None if dataset in hidden else self.read(tenant, dataset)

        return read_page(self._backend, layout.datasets(tenant), page_size, page_token, load)

    def fetch(self, tenant: str, dataset: str, dest: Path) -> Path:
        """Writes a data set's bytes to the file `dest`, verified; replaces what is there. Returns `dest`.

        Also of one that was deleted, like `read`.

        Raises:
            NotFound: no such data set.
            CorruptBlob: the stored bytes are damaged; no file is left.
        """
        manifest = self.read(tenant, dataset)
        partial = dest.with_name(f"{dest.name}.partial-{secrets.token_hex(4)}")
        self._blobs.fetch(tenant, manifest.sha256, manifest.size, partial)
        return partial.replace(dest)


def _missing(tenant: str, dataset: str) -> NotFound:
    return NotFound(f"data set {dataset} of tenant {tenant} does not exist; upload it first")


def dataset_id(digest: str, format: str) -> str:
    """Returns the id of a content in a format: 'ds-' and 160 bits of a hash over both."""
    return "ds-" + hashlib.sha256(f"{format}:{digest}".encode()).hexdigest()[:40]
