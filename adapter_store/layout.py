"""Object keys: where everything lies in the bucket.

Owns the layout `v1/`. Every function parses
the ids it is given, so that no path leads from a caller's text to a key except through `adapter_store.names`.
Prefixes end with '/'.
"""

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from adapter_store.names import parse_digest, parse_id

ROOT = "v1/"
TENANTS = f"{ROOT}tenants/"
PROBES = f"{ROOT}probes/"
"""Objects that the store is tried with, each for a moment."""
MERGED = f"{ROOT}merged/"
"""Merged weights, `{base digest}/{version}/` below it: derived, may be removed at any time."""

AUDIT = f"{ROOT}audit/"
"""The audit log: `{day}/{entry}.json` below it, newest first on both levels; see `adapter_store.audit`."""
_ENTRY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_LAST_DAY = 99_999_999
_LAST_MICROSECOND = 10**17 - 1  # after 1970; enough for 3,000 years


def audit_day(at: datetime) -> str:
    """Prefix of a day's entries (UTC). It begins with the day's complement, so that the newest comes first in a listing."""
    day = f"{at:%Y%m%d}"
    return f"{AUDIT}{_LAST_DAY - int(day):08d}-{day}/"


def audit_entry(at: datetime, tenant_id: str, entry_id: str) -> str:
    """Key of one entry. It names whose it is ("" for nobody's), so that a tenant's are found without reading everybody's."""
    rest = _LAST_MICROSECOND - (at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
    owner = parse_id("tenant", tenant_id) if tenant_id else ""
    return f"{audit_day(at)}{rest:017d}-{parse_id('entry', entry_id)}-{owner}.json"


def of_audit_entry(name: str) -> dict[str, Any]:
    """Reads `day/entry` back: the moment as `at`, the id as `id`, whose it is as `tenant`. Of a foreign object nothing is known."""
    rest, entry_id, owner = (*name.rpartition("/")[2].removesuffix(".json").split("-", 2), "", "")[:3]
    micros = _LAST_MICROSECOND - int(rest) if rest.isdecimal() else 0
    return {
        "at": datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros),
        "id": entry_id if _ENTRY_ID.fullmatch(entry_id) else "0" * 16,
        "tenant": owner,
    }


def probe_object() -> str:
    """A key that nobody else uses."""
    return f"{PROBES}{secrets.token_hex(16)}"


def tenant(tenant_id: str) -> str:
    """Prefix of everything that a tenant owns."""
    return f"{TENANTS}{parse_id('tenant', tenant_id)}/"


def tenant_log(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}record/"


def blobs(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}blobs/sha256/"


def blob(tenant_id: str, digest: str) -> str:
    """Blobs are kept per tenant, so that existence of the same bytes elsewhere cannot be told from a skipped upload."""
    return f"{blobs(tenant_id)}{parse_digest('blob digest', digest)}"


def adapters(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}adapters/"


def versions(tenant_id: str, adapter_id: str) -> str:
    return f"{adapters(tenant_id)}{parse_id('adapter', adapter_id)}/versions/"


def version(tenant_id: str, adapter_id: str, digest: str) -> str:
    return f"{versions(tenant_id, adapter_id)}{parse_digest('version', digest)}.json"


def adapter_signatures(tenant_id: str, adapter_id: str) -> str:
    return f"{adapters(tenant_id)}{parse_id('adapter', adapter_id)}/signatures/"


def signatures(tenant_id: str, adapter_id: str, digest: str) -> str:
    """Prefix of a version's signatures: `{key id}.json` below it."""
    return f"{adapter_signatures(tenant_id, adapter_id)}{parse_digest('version', digest)}/"


def signature(tenant_id: str, adapter_id: str, digest: str, key_id: str) -> str:
    return f"{signatures(tenant_id, adapter_id, digest)}{parse_id('signing key', key_id)}.json"


def aliases(tenant_id: str, adapter_id: str) -> str:
    return f"{adapters(tenant_id)}{parse_id('adapter', adapter_id)}/aliases/"


def alias_log(tenant_id: str, adapter_id: str, alias_id: str) -> str:
    return f"{aliases(tenant_id, adapter_id)}{parse_id('alias', alias_id)}/"


def deletions(tenant_id: str, adapter_id: str) -> str:
    """Prefix of the deletion logs of an adapter's versions: `{version}/` below it, see `manifest.DeletionRecord`.

    A version without a log was never deleted. The log outlives what it is about: it is small, and says who removed what.
    """
    return f"{adapters(tenant_id)}{parse_id('adapter', adapter_id)}/deletions/"


def deletion_log(tenant_id: str, adapter_id: str, digest: str) -> str:
    return f"{deletions(tenant_id, adapter_id)}{parse_digest('version', digest)}/"


def dataset_deletions(tenant_id: str) -> str:
    """Prefix of the deletion logs of a tenant's data sets: `{dataset}/` below it, with the meaning of `deletions`."""
    return f"{tenant(tenant_id)}dataset-deletions/"


def dataset_deletion_log(tenant_id: str, dataset_id: str) -> str:
    return f"{dataset_deletions(tenant_id)}{parse_id('dataset', dataset_id)}/"


def holds(tenant_id: str) -> str:
    """Prefix of what running jobs keep from being removed: a log per job below it, see `manifest.HoldRecord`."""
    return f"{tenant(tenant_id)}holds/"


def hold_log(tenant_id: str, job_id: str) -> str:
    return f"{holds(tenant_id)}{parse_id('job', job_id)}/"


def sweeps(tenant_id: str) -> str:
    """Prefix of the notices of what is about to be removed; see `adapter_store.sweeps`."""
    return f"{tenant(tenant_id)}sweeps/"


def new_sweep(tenant_id: str) -> str:
    """A notice's key that nobody else uses."""
    return f"{sweeps(tenant_id)}{secrets.token_hex(16)}.json"


def datasets(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}datasets/"


def dataset(tenant_id: str, dataset_id: str) -> str:
    return f"{datasets(tenant_id)}{parse_id('dataset', dataset_id)}.json"


def merged(base_digest: str, digest: str) -> str:
    """Prefix of a version's merged weights."""
    return f"{MERGED}{parse_digest('base digest', base_digest)}/{parse_digest('version', digest)}/"


def merged_manifest(base_digest: str, digest: str) -> str:
    """Sorts before the files, so that whoever removes in key order takes it away first."""
    return f"{merged(base_digest, digest)}manifest.json"


def merged_file(base_digest: str, digest: str, file_digest: str) -> str:
    return f"{merged(base_digest, digest)}sha256/{parse_digest('file digest', file_digest)}"
