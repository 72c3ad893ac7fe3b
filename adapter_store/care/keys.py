"""Reading keys: what an object is, by where it lies.

Owns the way back from a key to the ids in it. Does not own the layout (`adapter_store.layout`); a test holds the two together.
What is not recognised here is UNKNOWN, and nobody in this package touches it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from adapter_store.errors import InvalidName
from adapter_store.names import parse_digest, parse_id
from adapter_store.numbered_log import record_number


class Kind(StrEnum):
    """What an object is."""

    TENANT = "tenant record"
    BLOB = "blob"
    VERSION = "version manifest"
    SIGNATURE = "signature"
    ALIAS = "alias record"
    VERSION_DELETION = "version's deletion record"
    DATASET = "data-set manifest"
    DATASET_DELETION = "data set's deletion record"
    HOLD = "hold of a job"
    SWEEP = "notice of removal"
    AUDIT = "audit entry"
    PROBE = "probe"
    MERGED = "merged weights"
    MERGED_MANIFEST = "manifest of merged weights"
    UNKNOWN = "unknown object"


_DAY = re.compile(r"\d{8}-\d{8}", re.ASCII)
_AUDIT = re.compile(r"\d{17}-([0-9a-f]{16})-[a-z0-9-]{0,63}", re.ASCII)
LOGS = frozenset({Kind.TENANT, Kind.ALIAS, Kind.VERSION_DELETION, Kind.DATASET_DELETION, Kind.HOLD})
"""Kinds whose objects are records of numbered logs."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was read."""

    text: str
    kind: Kind
    tenant: str = ""
    adapter: str = ""
    name: str = ""
    """Version, alias, data set, job or blob digest; of merged weights the version."""
    number: int | None = None
    """Of a record in its log; None also for an object in a log's place that is no record."""
    base: str = ""
    """Digest of the backbone, of merged weights only."""
    file: str = ""
    """Digest of the bytes, of a file of merged weights only."""

    @property
    def log(self) -> str:
        """Prefix of the log that a record is in."""
        return self.text.rpartition("/")[0] + "/"


def parse(text: str) -> Key:
    """Reads a key; never fails."""
    try:
        return _parse(text, text.split("/"))
    except InvalidName:
        return Key(text, Kind.UNKNOWN)


def _parse(text: str, segments: list[str]) -> Key:
    match segments:
        case ["v1", "tenants", tenant, *rest]:
            return _parse_tenants(text, parse_id("tenant", tenant), rest)
        case ["v1", "audit", day, file]:
            return _parse_audit(text, day, file)
        case ["v1", "probes", _]:
            return Key(text, Kind.PROBE)
        case ["v1", "merged", base, version, *rest]:
            return _parse_merged(text, parse_digest("base", base), parse_digest("version", version), rest)
    return Key(text, Kind.UNKNOWN)


def _parse_audit(text: str, day: str, file: str) -> Key:
    # Not by the tenant: what was done outlives whom it was done to.
    found = _AUDIT.fullmatch(_stem(file))
    if found is None or not _DAY.fullmatch(day):
        return Key(text, Kind.UNKNOWN)
    return Key(text, Kind.AUDIT, name=found[1])


def _parse_merged(text: str, base: str, version: str, rest: list[str]) -> Key:
    match rest:
        case ["manifest.json"]:
            return Key(text, Kind.MERGED_MANIFEST, name=version, base=base)
        case ["sha256", digest]:
            return Key(text, Kind.MERGED, name=version, base=base, file=parse_digest("file digest", digest))
    return Key(text, Kind.UNKNOWN)


def _parse_tenants(text: str, tenant: str, rest: list[str]) -> Key:
    match rest:
        case ["record", record]:
            return Key(text, Kind.TENANT, tenant, number=record_number(record))
        case ["blobs", "sha256", digest]:
            return Key(text, Kind.BLOB, tenant, name=parse_digest("blob", digest))
        case ["adapters", adapter, *below]:
            return _parse_adapters(text, tenant, parse_id("adapter", adapter), below)
        case ["datasets", file]:
            return Key(text, Kind.DATASET, tenant, name=parse_id("dataset", _stem(file)))
        case ["dataset-deletions", dataset, record]:
            name = parse_id("dataset", dataset)
            return Key(text, Kind.DATASET_DELETION, tenant, name=name, number=record_number(record))
        case ["holds", job, record]:
            return Key(text, Kind.HOLD, tenant, name=parse_id("job", job), number=record_number(record))
        case ["sweeps", file]:
            return Key(text, Kind.SWEEP, tenant, name=_stem(file))
    return Key(text, Kind.UNKNOWN, tenant)


def _parse_adapters(text: str, tenant: str, adapter: str, rest: list[str]) -> Key:
    match rest:
        case ["versions", file]:
            return Key(text, Kind.VERSION, tenant, adapter, parse_digest("version", _stem(file)))
        case ["signatures", version, file]:
            parse_id("signing key", _stem(file))
            return Key(text, Kind.SIGNATURE, tenant, adapter, parse_digest("version", version))
        case ["aliases", alias, record]:
            return Key(text, Kind.ALIAS, tenant, adapter, parse_id("alias", alias), record_number(record))
        case ["deletions", version, record]:
            name = parse_digest("version", version)
            return Key(text, Kind.VERSION_DELETION, tenant, adapter, name, record_number(record))
    return Key(text, Kind.UNKNOWN, tenant)


def _stem(file: str) -> str:
    """A document's name without its ending; what has none is no document."""
    if not file.endswith(".json"):
        raise InvalidName(f"{file!r} is no document")
    return file.removesuffix(".json")
