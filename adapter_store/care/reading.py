"""Reading a document of any kind, with the check that it belongs where it lies.

Owns which model lies under which kind of key. A document that was copied to another's place has a sound checksum and is wrong all
the same.
"""

from typing import assert_never

from adapter_store import documents, layout
from adapter_store.audit import AuditEntry
from adapter_store.backends.protocol import Backend
from adapter_store.care.keys import LOGS, Key, Kind
from adapter_store.datasets import dataset_id
from adapter_store.errors import CorruptRecord
from adapter_store.manifest import (
    TEMPLATE_FILE,
    WEIGHTS_FILE,
    AliasRecord,
    DatasetManifest,
    DeletionRecord,
    HoldRecord,
    SignatureRecord,
    TenantRecord,
    VersionManifest,
    version_digest,
)
from adapter_store.merged import MergedManifest
from adapter_store.sweeps import SweepNotice

Stored = (
    VersionManifest
    | DatasetManifest
    | TenantRecord
    | AliasRecord
    | DeletionRecord
    | HoldRecord
    | SignatureRecord
    | SweepNotice
    | MergedManifest
    | AuditEntry
)
MODELS: dict[Kind, type[Stored]] = {
    Kind.TENANT: TenantRecord,
    Kind.VERSION: VersionManifest,
    Kind.ALIAS: AliasRecord,
    Kind.VERSION_DELETION: DeletionRecord,
    Kind.DATASET: DatasetManifest,
    Kind.DATASET_DELETION: DeletionRecord,
    Kind.HOLD: HoldRecord,
    Kind.SIGNATURE: SignatureRecord,
    Kind.SWEEP: SweepNotice,
    Kind.MERGED_MANIFEST: MergedManifest,
    Kind.AUDIT: AuditEntry,
}
"""Kinds that are documents."""


def read(backend: Backend, key: Key) -> Stored:
    """Returns the document under a key whose kind MODELS has.

    Raises:
        ObjectMissing: there is none.
        CorruptRecord: it is damaged, or is the document of another place.
    """
    return verified(key, read_bytes(backend, key))


def read_bytes(backend: Backend, key: Key) -> bytes:
    """Returns a document's bytes, or those of something too large to be one up to that size; raises ObjectMissing."""
    return b"".join(backend.read(key.text, length=documents.MAX_BYTES + 1))


def verified(key: Key, data: bytes) -> Stored:
    """Returns the document that the bytes under a key are; raises CorruptRecord like `read`."""
    what = describe(key)
    if key.kind in LOGS and key.number is None:
        raise CorruptRecord(f"{key.text} lies in a log and is none of its records; remove it")
    if len(data) > documents.MAX_BYTES:
        raise CorruptRecord(f"{what} is larger than {documents.MAX_BYTES} bytes")
    document = documents.decode(MODELS[key.kind], data, what)
    if _place(document) != _expected(document, key):
        raise CorruptRecord(f"{what} is that of another place; restore it from a backup")
    return document


def describe(key: Key) -> str:
    """Names an object for people."""
    number = f" {key.number}" if key.number is not None else ""
    name = f" of {key.name[:12] if len(key.name) == 64 else key.name}" if key.name else ""
    adapter = f" of adapter {key.adapter}" if key.adapter else ""
    tenant = f" of tenant {key.tenant}" if key.tenant else ""
    return f"{key.kind}{number}{name}{adapter}{tenant}"


def _place(document: Stored) -> tuple[object, ...]:
    """Where a document says that it belongs."""
    match document:
        case VersionManifest():
            identity = version_digest(
                weights=document.file(WEIGHTS_FILE).sha256,
                config=document.config,
                base=document.base_digest,
                template=document.template_digest,
            )
            has_its_template = document.file(TEMPLATE_FILE).sha256 == document.template_digest
            return document.tenant, document.adapter, document.version, identity, has_its_template
        case DatasetManifest():
            return document.tenant, document.id, dataset_id(document.sha256, document.format)
        case AliasRecord():
            return document.tenant, document.adapter, document.alias, document.number
        case HoldRecord():
            return document.tenant, document.job, document.number
        case SignatureRecord():
            return document.tenant, document.adapter, document.version, document.key_id
        case TenantRecord() | DeletionRecord():
            return document.tenant, document.number
        case SweepNotice():
            return (document.tenant,)
        case MergedManifest():
            return document.base_digest, document.version
        case AuditEntry():
            return (layout.audit_entry(document.at, document.tenant, document.id),)
        case _:
            assert_never(document)


def _expected(document: Stored, key: Key) -> tuple[object, ...]:
    match document:
        case VersionManifest():
            return key.tenant, key.adapter, key.name, key.name, True
        case DatasetManifest():
            return key.tenant, key.name, key.name
        case AliasRecord():
            return key.tenant, key.adapter, key.name, key.number
        case HoldRecord():
            return key.tenant, key.name, key.number
        case SignatureRecord():
            return key.tenant, key.adapter, key.name, key.text.rpartition("/")[2].removesuffix(".json")
        case TenantRecord() | DeletionRecord():
            return key.tenant, key.number
        case SweepNotice():
            return (key.tenant,)
        case MergedManifest():
            return key.base, key.name
        case AuditEntry():
            return (key.text,)
        case _:
            assert_never(document)
