"""Who calls a registry method, and what that lets them name. Used by every method before the store is touched."""

from adapter_store.errors import InvalidName
from adapter_store.names import TenantName
from graftwork.rpc.auth import Role, current_principal


def own_tenant(name: str) -> str:
    """Returns the tenant of `tenants/{tenant}`, if the caller may name it; a tenant's key may leave it out.

    Raises:
        InvalidName: no tenant's name, or none from an operator.
        NotVisible: another tenant's.
    """
    principal = current_principal()
    if not name and principal.role is Role.TENANT and principal.tenant:
        return principal.tenant
    if not name:
        raise InvalidName("no tenant given: an operator's key must name one as tenants/<tenant>")
    tenant = TenantName.parse(name).tenant
    principal.require_tenant(tenant)
    return tenant


def caller() -> str:
    """Names the caller in records that are kept: role and key id, never the key."""
    principal = current_principal()
    return f"{principal.role.value} {principal.key_id}"
