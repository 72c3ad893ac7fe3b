"""Who calls a registry method, what that lets them name, and which repeats are theirs. Used by every method before the store
is touched; the trainer's and serving's calls use it for the same names."""

from dataclasses import replace
from typing import TypeVar

from google.protobuf.message import Message

from adapter_store import idempotency
from adapter_store.errors import InvalidName
from adapter_store.names import NOBODY, AdapterName, AliasName, DatasetName, JobName, TenantName, VersionName
from graftwork.rpc.auth import Role, current_principal

Name = TypeVar("Name", AdapterName, AliasName, DatasetName, JobName, VersionName)


def own_tenant(name: str) -> str:
    """Returns the tenant of `tenants/{tenant}`, if the caller may name it; a tenant's key may leave it out.

    Raises:
        InvalidName: no tenant's name, or none from an operator.
        NotVisible: another tenant's, whether there is one of that name or not.
    """
    principal = current_principal()
    if not name and principal.role is Role.TENANT and principal.tenant:
        return principal.tenant
    if not name:
        raise InvalidName("no tenant given: an operator's key must name one as tenants/<tenant>")
    tenant = TenantName.parse(name).tenant
    principal.require_tenant(tenant)
    return tenant


def visible(name: Name) -> Name:
    """Returns the name under which to look for what a caller named: below NOBODY when it is another tenant's.

    So another tenant's thing is missed in the same way, with the same words and in the same time as one of the caller's
    own that does not exist. Messages about what is missing do not name its tenant, therefore.
    """
    return name if current_principal().may_name(name.tenant) else replace(name, tenant=NOBODY)


def caller() -> str:
    """Names the caller in records that are kept: role, name where the key has one, and key id; never the key."""
    return current_principal().label


def request_of(message: Message) -> idempotency.Request | None:
    """Returns what names a change, so that its repeat is known; None when the message has no request_id.

    Raises:
        InvalidRequestId: the id cannot be one.
    """
    bare = type(message)()
    bare.CopyFrom(message)
    bare.ClearField("request_id")
    content = bare.SerializeToString(deterministic=True)
    kind = message.DESCRIPTOR.full_name
    return idempotency.request(message.request_id, kind.encode(), caller().encode(), content)  # type: ignore[attr-defined]
