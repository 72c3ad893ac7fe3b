"""Content-addressed bytes of a tenant: verified on every way out.

Owns hashing, upload of what is missing and verified download. Does not own what a blob means. An upload meets its own
key only with its own bytes, so replacing is safe and heals a damaged blob.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from adapter_store import layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.errors import CorruptBlob

_PIECE = 1 << 20


def hash_file(file: Path) -> tuple[str, int]:
    """Returns a file's sha256 in hex and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


class Blobs:
    """Blobs below each tenant's prefix."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def put_file(self, tenant: str, file: Path) -> tuple[str, int]:
        """Stores a file, unless a sound copy is there already. Returns (sha256, size in bytes)."""
        digest, size = hash_file(file)
        key = layout.blob(tenant, digest)
        if not self._is_sound(key, digest, size):
            self._backend.put_file(key, file)
        return digest, size

    def put_bytes(self, tenant: str, data: bytes) -> tuple[str, int]:
        """Like `put_file`, for bytes in memory."""
        with tempfile.NamedTemporaryFile(prefix="graft-blob-") as file:
            file.write(data)
            file.flush()
            return self.put_file(tenant, Path(file.name))

    def fetch(self, tenant: str, digest: str, size: int, dest: Path) -> None:
        """Writes a blob to a new file, verified and synced. On any error no file is left.

        Raises:
            CorruptBlob: the stored bytes are not those of the digest, or are gone.
            FileExistsError: `dest` is there already.
        """
        with dest.open("xb") as file:
            try:
                seen, count = hashlib.sha256(), 0
                for piece in self._pieces(tenant, digest):
                    seen.update(piece)
                    count += len(piece)
                    if count > size:  # do not fill the disk with what will be refused anyway
                        break
                    file.write(piece)
                if count != size or seen.hexdigest() != digest:
                    raise _corrupt(tenant, digest)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                dest.unlink(missing_ok=True)
                raise

    def digest(self, tenant: str, digest: str) -> tuple[str | None, int]:
        """Reads the blob of that name; returns the sha256 and the size that its bytes have, (None, 0) when there is none."""
        seen, size = hashlib.sha256(), 0
        try:
            for piece in self._backend.read(layout.blob(tenant, digest)):
                seen.update(piece)
                size += len(piece)
        except ObjectMissing:
            return None, 0
        return seen.hexdigest(), size

    def _pieces(self, tenant: str, digest: str) -> Iterator[bytes]:
        try:
            yield from self._backend.read(layout.blob(tenant, digest))
        except ObjectMissing:
            raise _corrupt(tenant, digest) from None

    def _is_sound(self, key: str, digest: str, size: int) -> bool:
        """Reads the stored copy: trusting its size alone would keep a damaged blob damaged for ever."""
        if self._backend.size(key) != size:
            return False
        seen = hashlib.sha256()
        try:
            for piece in self._backend.read(key):
                seen.update(piece)
        except ObjectMissing:
            return False
        return seen.hexdigest() == digest


def _corrupt(tenant: str, digest: str) -> CorruptBlob:
    return CorruptBlob(
        f"blob sha256:{digest} of tenant {tenant} is missing or damaged in the store; "
        "publish the same content again to heal it"
    )
