"""Uploaded data sets: a blob and a manifest whose id is derived from the content.

Owns keeping and fetching them. Does not own validation of rows: the trainer's, before it calls `put`.
"""

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path

from adapter_store import documents, layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.blobs import Blobs
from adapter_store.errors import CorruptRecord, InvalidDataset, NotFound
from adapter_store.manifest import DatasetFormat, DatasetManifest
from adapter_store.paging import Page, read_page

MAX_BYTES = 4 << 30
"""Largest data set; what the trainer can hold on a small disk."""
_MAX_DISPLAY_NAME = 200


class Datasets:
    """Data sets of all tenants; `Store` hands one out."""

    def __init__(self, backend: Backend, blobs: Blobs) -> None:
        self._backend, self._blobs = backend, blobs

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
        """
        size = file.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise InvalidDataset(f"the data set has {size} bytes; between 1 and {MAX_BYTES} are accepted")
        if format not in ("jsonl", "parquet"):
            raise InvalidDataset(f"data-set format {format!r} is unknown; use jsonl or parquet")
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
        return self.get(tenant, manifest.id)

    def get(self, tenant: str, dataset: str) -> DatasetManifest:
        """Raises NotFound when the tenant has no such data set."""
        what = f"data set {dataset} of tenant {tenant}"
        try:
            manifest = documents.load(self._backend, layout.dataset(tenant, dataset), DatasetManifest, what)
        except ObjectMissing:
            raise NotFound(f"{what} does not exist; upload it first") from None
        # A manifest copied to another tenant's or data set's place must not be served from there.
        if (manifest.tenant, manifest.id) != (tenant, dataset) or dataset != dataset_id(
            manifest.sha256, manifest.format
        ):
            raise CorruptRecord(f"the manifest of {what} is that of another one; restore it from a backup")
        return manifest

    def list(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[DatasetManifest]:
        """Returns a tenant's data sets in the order of their ids."""
        return read_page(
            self._backend,
            layout.datasets(tenant),
            page_size,
            page_token,
            lambda name: self.get(tenant, name.removesuffix(".json")),
        )

    def fetch(self, tenant: str, dataset: str, dest: Path) -> Path:
        """Writes a data set's bytes to the file `dest`, verified; replaces what is there. Returns `dest`.

        Raises:
            NotFound: no such data set.
            CorruptBlob: the stored bytes are damaged; no file is left.
        """
        manifest = self.get(tenant, dataset)
        partial = dest.with_name(f"{dest.name}.partial-{secrets.token_hex(4)}")
        self._blobs.fetch(tenant, manifest.sha256, manifest.size, partial)
        return partial.replace(dest)


def dataset_id(digest: str, format: str) -> str:
    """Returns the id of a content in a format: 'ds-' and 160 bits of a hash over both."""
    return "ds-" + hashlib.sha256(f"{format}:{digest}".encode()).hexdigest()[:40]
