"""Bringing single objects from one store to another: each is verified before it counts as there.

Blobs are hashed while they come and read back from the destination. Documents must be sound and in their place, and are created only
where there is nothing. Owns what is left out: what is damaged in the source, a manifest with such a blob, an alias that names such a
version. Does not own the order (`copy`). All methods but the constructor may be called from several threads.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from adapter_store import layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.blobs import digest_of, fetch_object
from adapter_store.care import reading
from adapter_store.care.inventory import Found
from adapter_store.care.keys import Key, Kind, parse
from adapter_store.care.report import Finding, Report, Severity
from adapter_store.errors import CopyRefused, CorruptBlob, CorruptRecord, StoreUnavailable
from adapter_store.manifest import AliasRecord, BlobRef, DatasetManifest, VersionManifest
from adapter_store.merged import MergedManifest
from graftwork.scratch import DisposableFolder

_REPAIR = "repair the source (`graft store check --deep` says how), then copy again"


class Bringing:
    """One run's transport. A context manager: its temporary files are gone when it ends.

    Args:
        source, destination: the stores.
        report: told of bytes and of what is left out.

    Attributes:
        objects, bytes: written so far.
        left_out: keys of what the destination will lack, with the reason.
    """

    def __init__(self, source: Backend, destination: Backend, report: Report) -> None:
        self._source, self._destination, self.report = source, destination, report
        self._folder = DisposableFolder("graft-copy-")
        self._lock = threading.Lock()
        self._expected = self._moved = 0
        self.objects = self.bytes = 0
        self.left_out: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.close()

    def expect(self, size: int) -> None:
        """Says how many bytes of blobs there will be."""
        self._expected = size

    def blob(self, found: Found) -> None:
        """Brings a blob; what is damaged is left out."""
        self._bring(found.key.tenant, BlobRef(found.key.name, found.size))

    def manifest(self, found: Found) -> None:
        """Brings a manifest, and whichever of its blobs is still missing: it may be younger than the list of blobs."""
        document, data = self._document(found.key)
        if document is None:
            return
        assert isinstance(document, VersionManifest | DatasetManifest)
        for blob in document.blobs:
            entry = self._destination.entry(layout.blob(found.key.tenant, blob.sha256))
            if (entry is None or entry.size != blob.size) and not self._bring(found.key.tenant, blob):
                self._leave_out(found.key.text, f"its blob {blob.sha256[:12]} is missing or damaged in the source")
                return
        self._create(found.key, data)

    def signature(self, found: Found) -> None:
        """Brings a signature if the version that it is over is there."""
        version = layout.version(found.key.tenant, found.key.adapter, found.key.name)
        if version in self.left_out:
            self._leave_out(found.key.text, "its version is left out")
            return
        document, data = self._document(found.key)
        if document is not None:
            self._create(found.key, data)

    def entry(self, found: Found) -> None:
        """Brings an entry of the audit log."""
        document, data = self._document(found.key)
        if document is not None:
            self._create(found.key, data)

    def log(self, records: Sequence[Found]) -> int:
        """Brings records of one log, the newest first; one that is damaged is left out. Returns how many it was given."""
        if missing := self._missing_version(records[0]):
            for found in records:
                self._leave_out(
                    found.key.text, f"its alias names version {missing[:12]}, which is left out or not there"
                )
            return len(records)
        for found in records:
            document, data = self._document(found.key)
            if document is not None:
                self._create(found.key, data)
        return len(records)

    def merged(self, found: Found) -> None:
        """Brings a file of merged weights; what is damaged is left out."""
        self._bring_object(found.key.text, found.key.file, found.size)

    def merged_manifest(self, found: Found) -> None:
        """Brings the manifest of merged weights, and whichever of its files is still missing."""
        document, data = self._document(found.key)
        if document is None:
            return
        assert isinstance(document, MergedManifest)
        for file in document.files:
            entry = self._destination.entry(document.key(file))
            if (entry is None or entry.size != file.size) and not self._bring_object(
                document.key(file), file.sha256, file.size
            ):
                if self._source.entry(found.key.text) is not None:  # else all of it was removed since it was listed
                    self._leave_out(found.key.text, f"its file {file.path} is missing or damaged in the source")
                return
        if self._destination.create(found.key.text, data):
            self._count(1, len(data))

    def _bring(self, tenant: str, blob: BlobRef) -> bool:
        return self._bring_object(layout.blob(tenant, blob.sha256), blob.sha256, blob.size)

    def _bring_object(self, key: str, digest: str, size: int) -> bool:
        file = self._temporary()
        try:
            fetch_object(self._source, key, digest, size, file, CorruptBlob(f"{key} is damaged"), self._move)
            self._destination.put_file(key, file)
        except CorruptBlob:
            if self._source.entry(key) is not None:  # else it was collected; a manifest that names it says so
                self._leave_out(key, "its bytes in the source are not those of its name")
            return False
        finally:
            file.unlink(missing_ok=True)
        if digest_of(self._destination, key)[0] != digest:
            raise _unfaithful(key)
        self._count(1, size)
        return True

    def _missing_version(self, newest: Found) -> str | None:
        """The version that an alias would name and that the destination lacks, though it was looked for once more."""
        there = self._destination.children(newest.key.log, limit=1)
        if newest.key.kind is not Kind.ALIAS or (there and newest.key.log + there[0] < newest.key.text):
            return None  # a newer record is there: this one is history
        document, _ = self._document(newest.key)
        if not isinstance(document, AliasRecord) or document.removed:
            return None
        for share in document.shares:
            key = parse(layout.version(newest.key.tenant, newest.key.adapter, share.version))
            if self._destination.entry(key.text) is None:
                self.manifest(Found(key, 0, newest.modified))
                if self._destination.entry(key.text) is None:
                    return share.version
        return None

    def _document(self, key: Key) -> tuple[reading.Stored | None, bytes]:
        """A document and its bytes; None when it is gone, or damaged and thus left out."""
        try:
            data = reading.read_bytes(self._source, key)
            return reading.verified(key, data), data
        except ObjectMissing:
            pass
        except CorruptRecord as error:
            self._leave_out(key.text, str(error))
        return None, b""

    def _create(self, key: Key, data: bytes) -> None:
        if self._destination.create(key.text, data):
            self._count(1, len(data))
        elif reading.read_bytes(self._destination, key) != data:
            raise CopyRefused(
                f"{reading.describe(key)} was written in the destination meanwhile, and not as in the source; nobody may "
                "use it before it is complete"
            )

    def _temporary(self) -> Path:
        return self._folder.path / uuid4().hex

    def _move(self, count: int) -> None:
        with self._lock:
            self._moved += count
            self._expected = max(self._expected, self._moved)  # repeated ranges, and blobs that came later
            moved, expected = self._moved, self._expected
        self.report.progress("copying blobs", moved, expected, "bytes")

    def _count(self, objects: int, size: int) -> None:
        with self._lock:
            self.objects += objects
            self.bytes += size

    def _leave_out(self, key: str, why: str) -> None:
        with self._lock:
            is_new = key not in self.left_out
            self.left_out[key] = why
        if is_new:
            self.report.finding(Finding(Severity.DAMAGED, key, f"{why}; it is not copied", _REPAIR))


def _unfaithful(key: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"the destination gives other bytes for {key} than it was sent; look at its disks, then copy again"
    )
