"""Resource names: what a caller writes for a thing, as the protocol's full name.

Owns how ids and a client's tenant make a name. Whatever begins with `tenants/` is taken for a full name.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FULL = "tenants/"


class TenantMissing(GraftError):
    """A call about a tenant's things by a client that has no tenant."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class NoFullDigest(GraftError):
    """The beginning of a digest where a version's whole one is needed."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


def last_id(name: str) -> str:
    """Returns a resource name's last segment."""
    return name.rsplit("/", 1)[-1]


def tenant_of(name: str) -> str:
    """Returns the tenant's id in a resource name."""
    return name.split("/")[1]


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose things a client names.

    Attributes:
        tenant: an id; None until one is chosen.
    """

    tenant: str | None

    @property
    def parent(self) -> str:
        """`tenants/{tenant}`. Raises TenantMissing."""
        return f"{_FULL}{self.tenant_id}"

    @property
    def tenant_id(self) -> str:
        """The tenant. Raises TenantMissing."""
        if self.tenant is None:
            raise TenantMissing(
                "say whose: an operator's client needs a tenant for this call, as in Client(tenant='acme') or "
                "client.for_tenant('acme')"
            )
        return self.tenant

    def adapter(self, adapter: str) -> str:
        return self._name("adapters", adapter)

    def dataset(self, dataset: str) -> str:
        return self._name("datasets", dataset)

    def job(self, job: str) -> str:
        return self._name("jobs", job)

    def alias(self, adapter: str, alias: str) -> str:
        return f"{self.adapter(adapter)}/aliases/{alias}"

    def version(self, adapter: str, version: str) -> str:
        """Names a version by its digest.

        Raises:
            NoFullDigest: not 64 hex digits.
        """
        if not _DIGEST.fullmatch(version):
            raise NoFullDigest(
                f"{version!r:.80} is no version's digest, which has 64 hex digits: take `digest` of "
                "client.adapters.versions(...)"
            )
        return f"{self.adapter(adapter)}/versions/{version}"

    def version_or_alias(self, adapter: str, either: str) -> str:
        """Names a version by its digest, or what an alias points at."""
        return self.version(adapter, either) if _DIGEST.fullmatch(either) else self.alias(adapter, either)

    def _name(self, kind: str, given: str) -> str:
        return given if given.startswith(_FULL) else f"{self.parent}/{kind}/{given}"


def tenant_name(tenant: str) -> str:
    """Returns `tenants/{tenant}`."""
    return tenant if tenant.startswith(_FULL) else f"{_FULL}{tenant}"
