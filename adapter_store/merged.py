"""Merged weights: what an adapter's version makes of the backbone's, kept so that a second node need not merge again.

Owns publishing, finding and fetching them. They are derived: they may be gone at any moment, and whoever misses them, or finds
them damaged, removes the rest and merges again. Does not own the merging, nor what the files say. They belong to no tenant: the
version's digest is the name of their content, and to know it one must have been given the version.

Files come first, under their digests, so that two nodes that merge the same version at once do not write over each other even
when their bytes differ; whose manifest is created first has made what everybody uses.
"""

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from adapter_store import documents, layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.blobs import fetch_object, hash_file
from adapter_store.documents import Document
from adapter_store.errors import CorruptBlob, CorruptRecord, InvalidMerged, NotFound, StoreUnavailable
from adapter_store.folders import make_folder
from adapter_store.manifest import Sha256

MAX_FILES = 100
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_TRIES = 5  # of publishing against somebody who removes


class MergedFile(Document):
    """One file of merged weights."""

    path: str = Field(pattern=f"^{_NAME}$")
    sha256: str = Sha256
    size: int = Field(ge=0)
    """Bytes."""


class MergedManifest(Document):
    """A version's merged weights, all files of them."""

    schema_version: Literal[1] = 1
    base_digest: str = Sha256
    version: str = Sha256
    created_at: datetime
    files: tuple[MergedFile, ...] = Field(min_length=1, max_length=MAX_FILES)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def key(self, file: MergedFile) -> str:
        """Where a file's bytes lie."""
        return layout.merged_file(self.base_digest, self.version, file.sha256)


class Merged:
    """Merged weights of all versions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def find(self, base_digest: str, version: str) -> MergedManifest | None:
        """Returns what a version's merged weights are, None when there are none.

        Raises:
            CorruptRecord: the manifest is damaged; `remove`, then merge again.
        """
        what = f"the manifest of the merged weights of version {version[:12]}"
        try:
            manifest = documents.load(self._backend, layout.merged_manifest(base_digest, version), MergedManifest, what)
        except ObjectMissing:
            return None
        if (manifest.base_digest, manifest.version) != (base_digest, version):
            raise CorruptRecord(f"{what} is that of another one; remove it")
        return manifest

    def publish(self, base_digest: str, version: str, folder: Path) -> MergedManifest:
        """Stores a version's merged weights: every file in the folder, which must not change meanwhile.

        Returns:
            The manifest; when somebody else's is there already, that one, and this folder's files are not kept.

        Raises:
            InvalidMerged: the folder holds no file, too many, or something that is no plain file with a plain name.
            CorruptRecord: somebody else's manifest is there, and damaged; `remove`, then publish again.
            StoreUnavailable: the store is away, or somebody keeps removing what is published.
        """
        sources = _plain_files(folder)
        for _ in range(_TRIES):
            if found := self.find(base_digest, version):
                return found
            manifest = self._put(base_digest, version, sources)
            if not self._backend.create(layout.merged_manifest(base_digest, version), documents.encode(manifest)):
                self._drop_unnamed(manifest)
            elif self._is_whole(manifest):  # else a removal of what was here before took one of the files along
                return manifest
            else:
                self.remove(base_digest, version)
        if found := self.find(base_digest, version):
            return found
        raise StoreUnavailable(f"merged weights of version {version[:12]} are removed as often as published; try again")

    def fetch(self, base_digest: str, version: str, folder: Path) -> MergedManifest:
        """Makes the folder with a version's merged weights, each file's size and sha256 verified. Several processes may race for it.

        A folder that is there already is verified and kept when sound, replaced when not.

        Raises:
            NotFound: there are none.
            CorruptBlob, CorruptRecord: they are damaged or not complete; `remove`, then merge again. No folder is made.
        """
        manifest = self.find(base_digest, version)
        if manifest is None:
            raise NotFound(f"version {version[:12]} has no merged weights in the store")

        def fetch(file: MergedFile, dest: Path) -> None:
            damaged = CorruptBlob(
                f"{file.path} of the merged weights of version {version[:12]} is missing or damaged in the store; "
                "they have to be removed and merged again"
            )
            fetch_object(self._backend, manifest.key(file), file.sha256, file.size, dest, damaged)

        make_folder(folder, manifest.files, fetch)
        return manifest

    def remove(self, base_digest: str, version: str) -> None:
        """Removes a version's merged weights, whole or damaged; nothing happens when there are none.

        Who is fetching them meanwhile finds them damaged, and ends here, too.
        """
        keys = [entry.key for entry in self._backend.walk(layout.merged(base_digest, version))]
        # The manifest first: from then on nobody looks for the files.
        self._backend.delete(layout.merged_manifest(base_digest, version))
        for key in keys:
            self._backend.delete(key)

    def _put(self, base_digest: str, version: str, sources: list[Path]) -> MergedManifest:
        with ThreadPoolExecutor(2, thread_name_prefix="store-put") as pool:
            hashed = list(pool.map(hash_file, sources))
            files = tuple(
                MergedFile(path=source.name, sha256=digest, size=size)
                for source, (digest, size) in zip(sources, hashed, strict=True)
            )
            manifest = MergedManifest(
                base_digest=base_digest, version=version, created_at=datetime.now(UTC), files=files
            )
            list(pool.map(self._backend.put_file, map(manifest.key, files), sources))
        return manifest

    def _is_whole(self, manifest: MergedManifest) -> bool:
        entries = [(file, self._backend.entry(manifest.key(file))) for file in manifest.files]
        return all(entry is not None and entry.size == file.size for file, entry in entries)

    def _drop_unnamed(self, lost: MergedManifest) -> None:
        """Removes what a slower publisher stored and the faster one's manifest does not name."""
        found = self.find(lost.base_digest, lost.version)
        named = {file.sha256 for file in found.files} if found else set()
        for file in lost.files:
            if found and file.sha256 not in named:
                self._backend.delete(lost.key(file))


def _plain_files(folder: Path) -> list[Path]:
    """The folder's files by name."""
    found = sorted(folder.iterdir())
    for path in found:
        if not stat.S_ISREG(path.lstat().st_mode) or re.fullmatch(_NAME, path.name) is None:
            raise InvalidMerged(
                f"{path.name[:100]!r} is no file that merged weights may have: plain files with plain names, no folders or links"
            )
    if not 1 <= len(found) <= MAX_FILES:
        raise InvalidMerged(f"merged weights are 1 to {MAX_FILES} files, not {len(found)}")
    return found
