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
from adapter_store.idempotency import Request
from adapter_store.manifest import DatasetFinding, DatasetFormat, DatasetManifest, DeletionRecord
from adapter_store.paging import Page, read_page
from adapter_store.publishing import Publishing
from adapter_store.tenants import Tenants

MAX_BYTES = 4 << 30
"""Largest data set; what the trainer can hold on a small disk."""
_MAX_DISPLAY_NAME = 200


class Datasets:
    """Data sets of all tenants; `Store` hands one out."""

    def __init__(
        self, backend: Backend, tenants: Tenants, blobs: Blobs, deletions: Deletions, publishing: Publishing
    ) -> None:
        self._backend, self._tenants, self._blobs, self._deletions = backend, tenants, blobs, deletions
        self._publishing = publishing

    def put(
        self,
        tenant: str,
        file: Path,
        *,
        display_name: str,
        format: DatasetFormat,
        rows: int,
        findings: tuple[DatasetFinding, ...] = (),
    ) -> DatasetManifest:
        """Keeps a validated file. The same content again is the same data set; the first display name stays.

        Args:
            tenant: the owner.
            file: what to keep.
            display_name: for people; cut to 200 characters.
            format: jsonl or parquet.
            rows: how many the validator counted.
            findings: what it found.

        Raises:
            InvalidDataset: empty, larger than MAX_BYTES, or of another format.
            BeingPurged: this content was deleted and is being removed right now.
        """
        size = file.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise InvalidDataset(f"the data set has {size} bytes; between 1 and {MAX_BYTES} are accepted")
        if format not in ("jsonl", "parquet"):
            raise InvalidDataset(f"data-set format {format!r} is unknown; use jsonl or parquet")
        hashed = hash_file(file)
        manifest = DatasetManifest(
            tenant=tenant,
            id=dataset_id(hashed[0], format),
            display_name=display_name[:_MAX_DISPLAY_NAME],
            sha256=hashed[0],
            size=hashed[1],
            rows=rows,
            format=format,
            created_at=datetime.now(UTC),
            findings=findings,
        )
        # First of all writes: once this is undone, garbage collection keeps its hands off what follows.
        log = layout.dataset_deletion_log(tenant, manifest.id)
        self._deletions.revive(log, tenant, by="upload", reason="uploaded again")

        def put() -> DatasetManifest:
            self._blobs.put_file(tenant, file, hashed)
            return manifest

        _, is_new = self._publishing.publish(tenant, put, lambda made: layout.dataset(tenant, made.id))
        return manifest if is_new else self.read(tenant, manifest.id)

    def get(self, tenant: str, dataset: str) -> DatasetManifest:
        """Raises NotFound when the tenant has no such data set, or has deleted it."""
        if self._deletions.is_hidden(layout.dataset_deletion_log(tenant, dataset)):
            raise _missing(dataset)
        return self.read(tenant, dataset)

    def delete(
        self, tenant: str, dataset: str, *, by: str, reason: str, request: Request | None = None
    ) -> DeletionRecord:
        """Hides a data set at once; its bytes stay for the grace time, so that jobs admitted before still find them.

        A request that did so before gets its first answer.

        Raises:
            NotFound: the tenant has no such data set, or has deleted it.
        """
        log = layout.dataset_deletion_log(tenant, dataset)
        if done := self._deletions.made(log, request):
            return done
        self.get(tenant, dataset)
        return self._deletions.hide(log, tenant, by=by, reason=reason, request=request)

    def read(self, tenant: str, dataset: str) -> DatasetManifest:
        """Like `get`, also of one that was deleted and still has its bytes: a job that was admitted goes on."""
        what = f"data set {dataset} of tenant {tenant}"
        try:
            manifest = documents.load(self._backend, layout.dataset(tenant, dataset), DatasetManifest, what)
        except ObjectMissing:
            raise _missing(dataset) from None
        # A manifest copied to another tenant's or data set's place must not be served from there.
        if (manifest.tenant, manifest.id) != (tenant, dataset) or dataset != dataset_id(
            manifest.sha256, manifest.format
        ):
            raise CorruptRecord(f"the manifest of {what} is that of another one; restore it from a backup")
        return manifest

    def list(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[DatasetManifest]:
        """Returns a tenant's data sets in the order of their ids. Raises NotFound when there is no such tenant."""
        hidden = self._deletions.hidden_below(layout.dataset_deletions(tenant))

        def load(name: str) -> DatasetManifest | None:
            dataset = name.removesuffix(".json")
            return None if dataset in hidden else self.read(tenant, dataset)

        page = read_page(self._backend, layout.datasets(tenant), page_size, page_token, load)
        if page.is_empty_list(page_token):
            self._tenants.get(tenant)
        return page

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


def _missing(dataset: str) -> NotFound:
    return NotFound(f"data set {dataset} does not exist; `graft dataset list` shows the tenant's")


def dataset_id(digest: str, format: str) -> str:
    """Returns the id of a content in a format: 'ds-' and 160 bits of a hash over both."""
    return "ds-" + hashlib.sha256(f"{format}:{digest}".encode()).hexdigest()[:40]
