"""Content-addressed bytes of a tenant: verified on every way out.

Owns hashing, upload and verified download. Does not own what a blob means. An upload meets its own
key only with its own bytes, so replacing is safe and heals a damaged blob.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from adapter_store import layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.errors import CorruptBlob
from adapter_store.spare_files import NewFile, new_file
from adapter_store.transfers import Progress, download, no_progress

_PIECE = 1 << 20


def hash_file(file: Path) -> tuple[str, int]:
    """Returns a file's sha256 in hex and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as source:
        while piece := source.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def fetch_object(
    backend: Backend,
    key: str,
    digest: str,
    size: int,
    dest: Path,
    damaged: CorruptBlob,
    progress: Progress = no_progress,
    make: NewFile = new_file,
) -> None:
    """Writes an object to a new file, verified. On any error no file is left.

    Args:
        backend, key: where it lies.
        digest, size: what it must have.
        dest: the file.
        damaged: raised when it has not, or is gone.
        progress: of the bytes written.
        make: makes the file.

    Raises:
        FileExistsError: `dest` is there already.
    """
    with make(dest, size) as file:
        try:
            found = download(backend, key, size, file.fileno(), progress)
            if found != digest or os.fstat(file.fileno()).st_size != size:
                raise damaged
        except BaseException as error:
            dest.unlink(missing_ok=True)
            if isinstance(error, ObjectMissing):
                raise damaged from None
            raise


def digest_of(backend: Backend, key: str) -> tuple[str | None, int]:
    """Reads an object; returns the sha256 and the size that its bytes have, (None, 0) when there is none."""
    seen, size = hashlib.sha256(), 0
    try:
        for piece in backend.read(key):
            seen.update(piece)
            size += len(piece)
    except ObjectMissing:
        return None, 0
    return seen.hexdigest(), size


class Blobs:
    """Blobs below each tenant's prefix."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def put_file(self, tenant: str, file: Path, hashed: tuple[str, int] | None = None) -> tuple[str, int]:
        """Stores a file, also over a copy that is there already: that heals a damaged one and makes the blob young, on which
        `adapter_store.sweeps` relies.

        Args:
            tenant: the owner.
            file: what to store.
            hashed: what `hash_file` said of it, where the caller knows already.

        Returns:
            sha256 in hex, size in bytes.
        """
        digest, size = hashed or hash_file(file)
        self._backend.put_file(layout.blob(tenant, digest), file)
        return digest, size

    def put_bytes(self, tenant: str, data: bytes) -> tuple[str, int]:
        """Like `put_file`, for bytes in memory."""
        with tempfile.NamedTemporaryFile(prefix="graft-blob-") as file:
            file.write(data)
            file.flush()
            return self.put_file(tenant, Path(file.name))

    def fetch(
        self,
        tenant: str,
        digest: str,
        size: int,
        dest: Path,
        progress: Progress = no_progress,
        make: NewFile = new_file,
    ) -> None:
        """Writes a blob to a new file, verified. On any error no file is left.

        Not synced: what is fetched can be fetched again, and whoever finds the file after a power cut verifies it first.

        Raises:
            CorruptBlob: the stored bytes are not those of the digest, or are gone.
            FileExistsError: `dest` is there already.
        """
        damaged = _corrupt(tenant, digest)
        fetch_object(self._backend, layout.blob(tenant, digest), digest, size, dest, damaged, progress, make)

    def digest(self, tenant: str, digest: str) -> tuple[str | None, int]:
        """Reads the blob of that name; returns the sha256 and the size that its bytes have, (None, 0) when there is none."""
        return digest_of(self._backend, layout.blob(tenant, digest))


def _corrupt(tenant: str, digest: str) -> CorruptBlob:
    return CorruptBlob(
        f"blob sha256:{digest} of tenant {tenant} is missing or damaged in the store; "
        "publish the same content again to heal it"
    )
