"""Small JSON documents in the store: canonical bytes out, verified models in.

Owns the envelope `{"body": ..., "sha256": ...}` around manifests and log records, so that a damaged record is noticed
on read like a damaged blob. Does not own the models (`adapter_store.manifest`).
"""

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from adapter_store.backends.protocol import Backend
from adapter_store.errors import CorruptRecord

MAX_BYTES = 4 << 20
"""Largest document that is read; a tenant with 10,000 keys takes about 2.5 MiB."""


class Document(BaseModel):
    """Base of what is stored: frozen, and a field that this version does not know is an error, not silently dropped
    by the next read-change-write."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


D = TypeVar("D", bound=Document)


def canonical(value: Any) -> bytes:
    """Returns JSON with sorted keys, no spaces and no NaN; the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def encode(document: Document) -> bytes:
    return canonical({"body": document.model_dump(mode="json"), "sha256": digest(document)})


def digest(document: Document) -> str:
    """Returns the sha256 that `encode` writes beside a document: of its canonical body."""
    return hashlib.sha256(canonical(document.model_dump(mode="json"))).hexdigest()


def decode(kind: type[D], data: bytes, what: str) -> D:
    """Reads a stored document.

    Args:
        kind: the model expected.
        data: the object's bytes.
        what: names the document in an error.

    Raises:
        CorruptRecord: not JSON, not the checksum it carries, or not this model.
    """
    return _open(kind, data, what)[0]


def _open(kind: type[D], data: bytes, what: str) -> tuple[D, str]:
    try:
        envelope = json.loads(data)
        body, claimed = envelope["body"], envelope["sha256"]
    except (ValueError, KeyError, TypeError):
        raise CorruptRecord(f"{what} is not a document of this store; restore the object from a backup") from None
    if hashlib.sha256(canonical(body)).hexdigest() != claimed:
        raise CorruptRecord(f"{what} does not match its checksum; restore the object from a backup")
    try:
        return kind.model_validate_json(canonical(body)), claimed
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, item["loc"])) for item in error.errors()}))
        raise CorruptRecord(f"{what} has fields that this version cannot read ({fields}); upgrade Graftwork") from None


def load(backend: Backend, key: str, kind: type[D], what: str) -> D:
    """Fetches and reads a document.

    Raises:
        ObjectMissing: nothing under the key.
        CorruptRecord: see `decode`; also when it is larger than MAX_BYTES.
    """
    return load_with_digest(backend, key, kind, what)[0]


def load_with_digest(backend: Backend, key: str, kind: type[D], what: str) -> tuple[D, str]:
    """Like `load`, with the sha256 of the body as it is stored.

    That is not always what `digest` makes of the model: a document from before a field was added lacks that field.
    """
    data = b"".join(backend.read(key, length=MAX_BYTES + 1))
    if len(data) > MAX_BYTES:
        raise CorruptRecord(f"{what} is larger than {MAX_BYTES} bytes")
    return _open(kind, data, what)
