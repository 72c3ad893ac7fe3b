"""API keys: `gw_<tenant>_<random>`, made once, kept as hashes.

Owns a key's form, hashing and comparison. Does not own who may use it (`tenants.authenticate`).
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from adapter_store.errors import InvalidKey, NotFound
from adapter_store.manifest import KeyRecord

_RANDOM_BYTES = 24  # 192 bits: nothing to guess, so a plain sha256 is a sufficient hash
_KEY = re.compile(r"gw_([a-z0-9][a-z0-9-]{0,62})_([0-9a-f]{48})", re.ASCII)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: the one moment at which its text exists."""

    secret: str = field(repr=False)
    """Shown to its owner once; kept nowhere. Out of repr, so that a logged object does not leak it."""
    record: KeyRecord


def new_key(tenant: str, display_name: str, now: datetime, request_id: str = "") -> IssuedKey:
    """Makes a key for a tenant; storing the record is the caller's part."""
    secret = f"gw_{tenant}_{secrets.token_hex(_RANDOM_BYTES)}"
    digest = _hash(secret)
    record = KeyRecord(id=digest[:16], sha256=digest, display_name=display_name, created_at=now, request_id=request_id)
    return IssuedKey(secret, record)


def tenant_of(secret: str) -> str:
    """Returns the tenant that a key claims to be of; says nothing about the key being good.

    Raises:
        InvalidKey: not a key's form.
    """
    match = _KEY.fullmatch(secret)
    if match is None:
        raise refused()
    return match[1]


def find(secret: str, records: Iterable[KeyRecord]) -> KeyRecord | None:
    """Returns the record of an unrevoked key, None when there is none.

    Compares in constant time and looks at every record, so that the time taken tells nothing about which one matched.
    """
    digest, found = _hash(secret), None
    for record in records:
        same = hmac.compare_digest(record.sha256, digest)
        if same and record.revoked_at is None:
            found = record
    return found


def refused() -> InvalidKey:
    """The one answer for malformed, unknown and revoked keys."""
    return InvalidKey("the API key is not valid; ask the operator for a new one")


def missing(key_id: str) -> NotFound:
    """The one answer for a key that the tenant does not have, and for any key of another tenant."""
    return NotFound(f"no key {key_id:.80}; list the tenant's keys")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
