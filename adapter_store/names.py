"""Ids and resource names: the one place where text from outside becomes an id.

Owns the patterns and the AIP-122 resource names. Does not own object keys (`adapter_store.layout` builds them from ids
that went through here). Everything else in the project that meets an id calls these functions.
"""

import re
from dataclasses import dataclass
from typing import Self

from adapter_store.errors import InvalidName

# Lower case only: object keys meet file systems that fold case. No dot, slash or underscore: an id is one path segment,
# cannot be '..', and an API key `gw_<tenant>_<random>` splits in one way.
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
NOBODY = "0-nobodys-tenant"
"""The tenant that cannot be made. Whoever names another tenant's things is looked up here: that finds nothing, and takes
the work, and so the time, that finding nothing takes."""
_SHOWN = 80  # characters of a wrong id that an error message repeats


def parse_id(kind: str, text: str) -> str:
    """Returns `text` if it is an id.

    Args:
        kind: what the id names ("tenant", "adapter", ...); used in the message only.
        text: what the caller sent.

    Raises:
        InvalidName: it does not match `[a-z0-9][a-z0-9-]{0,62}`.
    """
    # fullmatch, because `$` would let a trailing newline through
    if not isinstance(text, str) or _ID.fullmatch(text) is None:
        raise InvalidName(
            f"{text!r:.{_SHOWN}} is no {kind} id: use 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit"
        )
    return text


def parse_digest(kind: str, text: str) -> str:
    """Returns `text` if it is a sha256 in lower-case hex; versions and blobs are named so.

    Raises:
        InvalidName: it is not 64 characters of 0-9a-f.
    """
    if not isinstance(text, str) or _DIGEST.fullmatch(text) is None:
        raise InvalidName(f"{text!r:.{_SHOWN}} is not a {kind}: use the sha256 in 64 lower-case hex digits")
    return text


def _segments(name: str, *collections: str) -> list[str]:
    """Splits 'tenants/a/adapters/b' into ['a', 'b'], checking the collections' names."""
    parts = name.split("/") if isinstance(name, str) else []
    if len(parts) != 2 * len(collections) or parts[0::2] != list(collections):
        shape = "/".join(f"{collection}/{{{collection[:-1]}}}" for collection in collections)
        raise InvalidName(f"{name!r:.{_SHOWN}} is not a resource name of the form {shape}")
    return parts[1::2]


@dataclass(frozen=True, slots=True)
class TenantName:
    """`tenants/{tenant}`"""

    tenant: str

    @classmethod
    def parse(cls, name: str) -> Self:
        (tenant,) = _segments(name, "tenants")
        return cls(parse_id("tenant", tenant))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}"


@dataclass(frozen=True, slots=True)
class DatasetName:
    """`tenants/{tenant}/datasets/{dataset}`"""

    tenant: str
    dataset: str

    @classmethod
    def parse(cls, name: str) -> Self:
        tenant, dataset = _segments(name, "tenants", "datasets")
        return cls(parse_id("tenant", tenant), parse_id("dataset", dataset))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/datasets/{self.dataset}"


@dataclass(frozen=True, slots=True)
class JobName:
    """`tenants/{tenant}/jobs/{job}`"""

    tenant: str
    job: str

    @classmethod
    def parse(cls, name: str) -> Self:
        tenant, job = _segments(name, "tenants", "jobs")
        return cls(parse_id("tenant", tenant), parse_id("job", job))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/jobs/{self.job}"


@dataclass(frozen=True, slots=True)
class AdapterName:
    """`tenants/{tenant}/adapters/{adapter}`"""

    tenant: str
    adapter: str

    @classmethod
    def parse(cls, name: str) -> Self:
        tenant, adapter = _segments(name, "tenants", "adapters")
        return cls(parse_id("tenant", tenant), parse_id("adapter", adapter))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/adapters/{self.adapter}"


@dataclass(frozen=True, slots=True)
class VersionName:
    """`tenants/{tenant}/adapters/{adapter}/versions/{version}`"""

    tenant: str
    adapter: str
    version: str

    @classmethod
    def parse(cls, name: str) -> Self:
        tenant, adapter, version = _segments(name, "tenants", "adapters", "versions")
        return cls(parse_id("tenant", tenant), parse_id("adapter", adapter), parse_digest("version", version))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/adapters/{self.adapter}/versions/{self.version}"


@dataclass(frozen=True, slots=True)
class AliasName:
    """`tenants/{tenant}/adapters/{adapter}/aliases/{alias}`"""

    tenant: str
    adapter: str
    alias: str

    @classmethod
    def parse(cls, name: str) -> Self:
        tenant, adapter, alias = _segments(name, "tenants", "adapters", "aliases")
        return cls(parse_id("tenant", tenant), parse_id("adapter", adapter), parse_id("alias", alias))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/adapters/{self.adapter}/aliases/{self.alias}"


def parse_parent(name: str) -> str | None:
    """Reads a list call's parent: the tenant's id, or None for `tenants/-` (all tenants, AIP-159).

    Raises:
        InvalidName: neither.
    """
    return None if name == "tenants/-" else TenantName.parse(name).tenant
