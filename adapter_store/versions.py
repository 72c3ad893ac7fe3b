"""Immutable adapter versions: publish, read, fetch.

Owns the order of publishing (checks, blobs, manifest) that leaves nothing half visible, and the folder that comes out.
Does not own aliases, which move to a version only after it is here.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adapter_store import documents, layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.base import BaseInfo
from adapter_store.blobs import Blobs, hash_file
from adapter_store.deletions import Deletions
from adapter_store.documents import canonical
from adapter_store.errors import CorruptRecord, NotFound
from adapter_store.folders import make_folder
from adapter_store.manifest import (
    CONFIG_FILE,
    TEMPLATE_FILE,
    VERSION_FILES,
    WEIGHTS_FILE,
    FileRecord,
    Provenance,
    VersionManifest,
    version_digest,
)
from adapter_store.paging import MAX_SIZE, Page, read_page
from adapter_store.peft_check import CheckedAdapter, check_folder
from adapter_store.peft_config import stored_config
from adapter_store.publishing import Publishing
from adapter_store.spare_files import NewFile, new_file
from adapter_store.tenants import Tenants


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of a verified version."""

    file: FileRecord
    problem: str
    """Empty for a sound one."""


class Versions:
    """Versions of all tenants' adapters.

    Args:
        backend: the object store.
        blobs: where files go.
        tenants: asked whether a publisher's tenant exists.
        deletions: what is hidden.
        publishing: makes manifests visible.
        max_rank: the largest rank that the fleet serves.
    """

    def __init__(
        self,
        backend: Backend,
        blobs: Blobs,
        tenants: Tenants,
        deletions: Deletions,
        publishing: Publishing,
        *,
        max_rank: int,
    ) -> None:
        self._backend, self._blobs, self._tenants, self._max_rank = backend, blobs, tenants, max_rank
        self._deletions, self._publishing = deletions, publishing

    def publish(self, tenant: str, adapter: str, folder: Path, *, base: BaseInfo, made: Provenance) -> VersionManifest:
        """Checks an adapter folder and makes it a version; may be repeated after any failure.

        Args:
            tenant: the owner; must exist.
            adapter: the adapter's id; made by its first version.
            folder: adapter_model.safetensors, adapter_config.json, chat_template.jinja. Must not change meanwhile.
            base: the backbone that it was trained on.
            made: how it came to be.

        Returns:
            The manifest. When the same content is a version already, that one's, with its own provenance.

        Raises:
            InvalidAdapter: a check failed; nothing was stored.
            NotFound: no such tenant.
            BeingPurged: this content was deleted and is being removed right now.
        """
        layout.versions(tenant, adapter)  # parses both ids before any work
        self._tenants.get(tenant)
        with ThreadPoolExecutor(1, thread_name_prefix="store-hash") as pool:  # a second core, where there is one
            hashing = pool.submit(_hash_if_there, folder / WEIGHTS_FILE)
            checked = check_folder(folder, base, max_rank=self._max_rank)
            weights = hashing.result()
        # First of all writes: once this is undone, garbage collection keeps its hands off what follows.
        self._take_back_deletion(tenant, adapter, folder, weights[0], checked, base, made)

        def put() -> VersionManifest:
            files = self._put_files(tenant, folder, weights, checked, base)
            return _manifest(tenant, adapter, checked, files, base, made)

        # The manifest is written last: until then nothing is visible, from then on everything is there.
        manifest, is_new = self._publishing.publish(
            tenant, put, lambda made: layout.version(tenant, adapter, made.version)
        )
        if is_new:
            return manifest.model_copy(update={"document_sha256": documents.digest(manifest)})
        return self.read(tenant, adapter, manifest.version)

    def get(self, tenant: str, adapter: str, version: str) -> VersionManifest:
        """Returns the manifest of a version that is there for callers: `read`, but NotFound when it was deleted."""
        if self._deletions.is_hidden(layout.deletion_log(tenant, adapter, version)):
            raise _missing(f"version {version} of adapter {adapter}")
        return self.read(tenant, adapter, version)

    def read(self, tenant: str, adapter: str, version: str) -> VersionManifest:
        """Returns a version's manifest, deleted or not; its identity is recomputed and must hold.

        For what an alias points at, which is never deleted, this saves `get`'s look at the deletions.

        Raises:
            NotFound: no such version, adapter or tenant.
            CorruptRecord: the manifest is damaged or belongs elsewhere.
        """
        what = f"version {version} of adapter {adapter}"
        try:
            manifest, digest = documents.load_with_digest(
                self._backend, layout.version(tenant, adapter, version), VersionManifest, what
            )
        except ObjectMissing:
            raise _missing(what) from None
        identity = version_digest(
            weights=manifest.file(WEIGHTS_FILE).sha256,
            config=manifest.config,
            base=manifest.base_digest,
            template=manifest.template_digest,
        )
        if (manifest.tenant, manifest.adapter, manifest.version, identity) != (tenant, adapter, version, version):
            raise CorruptRecord(f"the manifest of {what} is that of another content; restore it from a backup")
        return manifest.model_copy(update={"document_sha256": digest})

    def list(self, tenant: str, adapter: str, page_size: int = 0, page_token: str = "") -> Page[VersionManifest]:
        """Returns an adapter's versions in the order of their digests (not of time); none for an unknown adapter."""
        hidden = self._deletions.hidden_below(layout.deletions(tenant, adapter))

        def load(name: str) -> VersionManifest | None:
            version = name.removesuffix(".json")
            return None if version in hidden else self.read(tenant, adapter, version)

        return read_page(self._backend, layout.versions(tenant, adapter), page_size, page_token, load)

    def any_visible(self, tenant: str, adapter: str) -> bool:
        """Whether an adapter has a version that is not deleted: what makes it exist."""
        prefix, after = layout.versions(tenant, adapter), ""
        if not self._deletions.any_below(layout.deletions(tenant, adapter)):
            return bool(self._backend.children(prefix, limit=1))
        hidden = self._deletions.hidden_below(layout.deletions(tenant, adapter))
        while names := self._backend.children(prefix, after=after, limit=MAX_SIZE):
            if any(name.removesuffix(".json") not in hidden for name in names):
                return True
            after = names[-1]
        return False

    def take_back_deletion(self, tenant: str, adapter: str, version: str, *, by: str, reason: str) -> None:
        """Makes a deleted version visible again; nothing happens to another one.

        Raises:
            BeingPurged: garbage collection has begun to remove it.
            NotFound: it has removed it.
        """
        if self._deletions.revive(layout.deletion_log(tenant, adapter, version), tenant, by=by, reason=reason):
            self.read(tenant, adapter, version)

    def fetch(self, manifest: VersionManifest, dest: Path, make: NewFile = new_file) -> Path:
        """Makes the folder `dest` with a version's files, each verified. Several processes may race for one `dest`.

        A folder that is there already is verified and kept when sound, replaced when not. `make` makes the new files.

        Raises:
            CorruptBlob: the store's bytes are damaged; `dest` is not made.
        """
        return make_folder(
            dest,
            manifest.files,
            lambda file, path: self._blobs.fetch(manifest.tenant, file.sha256, file.size, path, make=make),
        )

    def verify(self, manifest: VersionManifest) -> tuple[FileCheck, ...]:
        """Reads every stored byte of a version. A damaged file is in the answer, not an error."""
        checks = []
        for file in manifest.files:
            found, size = self._blobs.digest(manifest.tenant, file.sha256)
            if found is None:
                problem = "missing in the store"
            elif size != file.size:
                problem = f"{size} bytes in the store, {file.size} in the manifest"
            else:
                problem = "" if found == file.sha256 else f"its bytes have the sha256 {found}"
            checks.append(FileCheck(file, problem))
        return tuple(checks)

    def _take_back_deletion(
        self,
        tenant: str,
        adapter: str,
        folder: Path,
        weights: str,
        checked: CheckedAdapter,
        base: BaseInfo,
        made: Provenance,
    ) -> None:
        if not self._deletions.any_below(layout.deletions(tenant, adapter)):
            return  # the usual case pays one listing
        version = version_digest(
            weights=weights,
            config=checked.config,
            base=base.digest,
            template=hash_file(folder / TEMPLATE_FILE)[0],
        )
        log = layout.deletion_log(tenant, adapter, version)
        self._deletions.revive(log, tenant, by=made.made_by, reason="published again")

    def _put_files(
        self, tenant: str, folder: Path, weights: tuple[str, int], checked: CheckedAdapter, base: BaseInfo
    ) -> tuple[FileRecord, ...]:
        config = canonical(stored_config(checked.config, checked.target_modules, base.model_id))
        with ThreadPoolExecutor(len(VERSION_FILES), thread_name_prefix="store-put") as pool:
            stored = {
                WEIGHTS_FILE: pool.submit(self._blobs.put_file, tenant, folder / WEIGHTS_FILE, weights),
                CONFIG_FILE: pool.submit(self._blobs.put_bytes, tenant, config),
                TEMPLATE_FILE: pool.submit(self._blobs.put_file, tenant, folder / TEMPLATE_FILE),
            }
        records = []
        for path, flight in stored.items():
            digest, size = flight.result()
            records.append(FileRecord.model_validate({"path": path, "sha256": digest, "size": size}))
        return tuple(records)


def _manifest(
    tenant: str,
    adapter: str,
    checked: CheckedAdapter,
    files: tuple[FileRecord, ...],
    base: BaseInfo,
    made: Provenance,
) -> VersionManifest:
    digests: dict[str, str] = {file.path: file.sha256 for file in files}
    return VersionManifest(
        tenant=tenant,
        adapter=adapter,
        version=version_digest(
            weights=digests[WEIGHTS_FILE], config=checked.config, base=base.digest, template=digests[TEMPLATE_FILE]
        ),
        created_at=datetime.now(UTC),
        files=files,
        base_model=base.model_id,
        base_revision=base.revision,
        base_digest=base.digest,
        template_digest=digests[TEMPLATE_FILE],
        config=checked.config,
        rank=checked.rank,
        alpha=checked.alpha,
        target_modules=checked.target_modules,
        dtype=checked.dtype,
        parameters=checked.parameters,
        made=made,
        tokenizer_digest=base.tokenizer_digest,
    )


def _hash_if_there(file: Path) -> tuple[str, int]:
    """Like `hash_file`; nothing for what cannot be read: the checks, which run meanwhile, say so in their own words."""
    try:
        return hash_file(file)
    except OSError:
        return "", 0


def _missing(what: str) -> NotFound:
    return NotFound(f"{what} does not exist; list the adapter's versions")
