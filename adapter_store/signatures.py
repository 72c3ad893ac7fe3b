"""Signatures over versions' manifests: kept beside them, verified by whoever reads them.

Owns keeping them and what a kept one is worth. Does not own keys and what is signed (`graftwork.signing`), nor who is trusted
(serving). The store itself is not trusted with any of this: what it hands back is verified, and a signature that does not fit
is as good as none.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from adapter_store import documents, layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.documents import canonical
from adapter_store.errors import CorruptRecord, InvalidSignature
from adapter_store.manifest import CONFIG_FILE, TEMPLATE_FILE, SignatureRecord, VersionManifest
from adapter_store.paging import MAX_SIZE
from adapter_store.peft_config import stored_config
from graftwork.signing import PublicKey, SigningKey

MAX_LISTED = 100
"""Signatures of one version that are shown."""


@dataclass(frozen=True, slots=True)
class KeptSignature:
    """A signature as it lies in the store, and what is wrong with it."""

    record: SignatureRecord
    problem: str
    """Empty when it fits the manifest and the public key that it carries; says nothing of that key being trusted."""


class Signatures:
    """Signatures of all tenants' versions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add(self, manifest: VersionManifest, key: PublicKey, signature: bytes, *, by: str) -> SignatureRecord:
        """Keeps a signature; may be repeated.

        Args:
            manifest: as it was read from the store or published to it.
            key: what it was made with.
            signature: 64 bytes.
            by: who hands it in.

        Raises:
            InvalidSignature: it does not fit the manifest that lies in the store.
        """
        if not key.fits(manifest.document_sha256, signature):
            raise InvalidSignature(
                f"the signature by key {key.id} does not fit the manifest of version {manifest.version}; "
                "sign what `graft adapter show` names as the manifest's sha256"
            )
        record = SignatureRecord(
            tenant=manifest.tenant,
            adapter=manifest.adapter,
            version=manifest.version,
            manifest_sha256=manifest.document_sha256,
            key_id=key.id,
            public_key=key.raw.hex(),
            signature=signature.hex(),
            by=by,
            at=datetime.now(UTC),
        )
        at = layout.signature(manifest.tenant, manifest.adapter, manifest.version, key.id)
        if self._backend.create(at, documents.encode(record)):
            return record
        found = self._load(at)
        if found is not None and not _problem(found, manifest):
            return found
        # Of a manifest that was here before this one, or damaged: it proves nothing, and would stand in the way for ever.
        self._backend.delete(at)
        self._backend.create(at, documents.encode(record))
        return record

    def sign(self, manifest: VersionManifest, key: SigningKey, *, by: str) -> SignatureRecord:
        """Signs what this process has just published.

        Raises:
            CorruptRecord: the manifest that lies in the store names other files than its own settings make. Somebody who
                can write to the store but holds no key must not get it signed by publishing the same content again.
        """
        config = canonical(stored_config(manifest.config, manifest.target_modules, manifest.base_model))
        named = manifest.file(CONFIG_FILE).sha256, manifest.file(TEMPLATE_FILE).sha256
        if named != (hashlib.sha256(config).hexdigest(), manifest.template_digest):
            raise CorruptRecord(
                f"the manifest of version {manifest.version} names other files than its settings make, so it is not "
                "signed; look who writes to the store"
            )
        return self.add(manifest, key.public, key.sign(manifest.document_sha256), by=by)

    def list(self, manifest: VersionManifest) -> tuple[KeptSignature, ...]:
        """Returns a version's signatures by key id, sound or not; at most MAX_LISTED. One listing when there is none."""
        prefix = layout.signatures(manifest.tenant, manifest.adapter, manifest.version)
        names = self._backend.children(prefix, limit=MAX_LISTED)
        records = (self._load(prefix + name) for name in names)
        return tuple(KeptSignature(record, _problem(record, manifest)) for record in records if record)

    def of_all(self, versions: Sequence[VersionManifest]) -> Sequence[tuple[KeptSignature, ...]]:
        """Like `list`, of several versions of one adapter, in their order. One listing when none is signed."""
        signed: set[str] = set()
        after = ""
        while versions and (names := self._signed(versions[0], after)):
            signed.update(name.removesuffix("/") for name in names)
            after = names[-1]
        return [self.list(item) if item.version in signed else () for item in versions]

    def _signed(self, any_of: VersionManifest, after: str) -> Sequence[str]:
        prefix = layout.adapter_signatures(any_of.tenant, any_of.adapter)
        return self._backend.children(prefix, after=after, limit=MAX_SIZE)

    def signer(self, manifest: VersionManifest, trusted: Mapping[str, PublicKey]) -> str | None:
        """Returns the id of a trusted key that signed a version; None when none did. One read for each key, until one fits.

        Only the signature's own bytes are taken from the store; the key is the trusted one, whatever the record claims.
        """
        for key_id, key in trusted.items():
            record = self._load(layout.signature(manifest.tenant, manifest.adapter, manifest.version, key_id))
            if record and key.fits(manifest.document_sha256, bytes.fromhex(record.signature)):
                return key_id
        return None

    def _load(self, at: str) -> SignatureRecord | None:
        """A kept signature; None when there is none, or it is no record of ours: neither proves anything."""
        try:
            return documents.load(self._backend, at, SignatureRecord, "signature")
        except (ObjectMissing, CorruptRecord):
            return None


def _problem(record: SignatureRecord, manifest: VersionManifest) -> str:
    key = PublicKey(bytes.fromhex(record.public_key))
    if key.id != record.key_id:
        return "it names another key than it carries"
    if record.manifest_sha256 != manifest.document_sha256:
        return "it is over another manifest"
    if not key.fits(manifest.document_sha256, bytes.fromhex(record.signature)):
        return "it does not fit the manifest"
    return ""
