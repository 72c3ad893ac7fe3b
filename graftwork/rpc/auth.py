"""Who is calling: the principal of the current call, and what it may touch.

Owns the principal and its checks. Does not own keys: an `Authenticator` (adapter_store/api/keyring.py) turns a
bearer token into a principal.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from graftwork.errors import ErrorCode, GraftError

OPERATOR_PREFIX = "gwop_"
"""Begins every operator's key; a tenant's begins with `gw_`."""


class Unauthenticated(GraftError):
    """No key, or one that is not known."""

    code: ClassVar[ErrorCode] = ErrorCode.UNAUTHENTICATED


class Forbidden(GraftError):
    """A tenant's key on an operator's call, or a viewer's on one that changes something or takes something out."""

    code: ClassVar[ErrorCode] = ErrorCode.FORBIDDEN


class NotVisible(GraftError):
    """Another tenant's resource: the same answer as for one that does not exist."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


class Role(StrEnum):
    """Kinds of caller."""

    OPERATOR = "operator"
    VIEWER = "viewer"
    """Sees what an operator sees, and neither changes nor generates anything nor takes weights out."""
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of the current call.

    Attributes:
        role: operator, viewer or tenant.
        tenant: the tenant's id; None for operators and viewers.
        key_id: names the key where a record says who did something; never the key itself.
        name: of the person or machine that an operator's or a viewer's key was made for; empty where none was given.
    """

    role: Role
    tenant: str | None
    key_id: str
    name: str = ""

    @property
    def label(self) -> str:
        """Names the caller in records that are kept."""
        return " ".join(part for part in (self.role.value, self.name, self.key_id) if part)

    @property
    def oversees(self) -> bool:
        """Whether the caller sees all tenants."""
        return self.role in (Role.OPERATOR, Role.VIEWER)

    def require_operator(self) -> None:
        """Raises Forbidden unless the caller is an operator."""
        if self.role is not Role.OPERATOR:
            raise Forbidden(f"this call needs an operator's key; a {self.role.value}'s key was given")

    def require_overseer(self) -> None:
        """Raises Forbidden unless the caller sees all tenants; for calls that only show something."""
        if not self.oversees:
            raise Forbidden("this call needs an operator's or a viewer's key; a tenant's key was given")

    def may_name(self, tenant: str) -> bool:
        """Whether the caller sees all tenants, or is `tenant` itself."""
        return self.oversees or self.tenant == tenant

    def require_tenant(self, tenant: str) -> None:
        """Raises NotVisible when the caller is another tenant than `tenant`."""
        if not self.may_name(tenant):
            raise NotVisible(f"tenants/{tenant} not found")


class Authenticator(Protocol):
    """Turns a bearer token into a principal."""

    async def authenticate(self, token: str) -> Principal:
        """Returns the caller, or raises Unauthenticated."""
        ...


_current: ContextVar[Principal] = ContextVar("graftwork_principal")


def current_principal() -> Principal:
    """Returns the caller of the current call; raises Unauthenticated outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise Unauthenticated("no caller: this code ran outside of an authenticated call") from None


def set_principal(principal: Principal) -> None:
    """Sets the caller for the current task; the interceptor does so once per call."""
    _current.set(principal)


def bearer_token(metadata: dict[str, str]) -> str:
    """Takes the token out of a call's metadata; raises Unauthenticated when there is none."""
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(
            "no API key: send metadata 'authorization: Bearer <key>' (graft and the SDK: GRAFT_API_KEY)"
        )
    return token
