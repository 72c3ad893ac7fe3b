"""RegistryService: converts, checks who calls, delegates to the store. The store's calls block, so they run in threads."""

from asyncio import to_thread
from typing import Any

from adapter_store.api import convert
from adapter_store.errors import InvalidName
from adapter_store.names import AdapterName, AliasName, TenantName, VersionName
from adapter_store.store import AdapterStore
from graftwork.rpc.auth import Role, current_principal
from graftwork.v1 import registry_pb2 as pb
from graftwork.v1 import registry_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """The registry of one store; mounted on the trainer's and on the serving server."""

    def __init__(self, store: AdapterStore) -> None:
        self._store = store

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.Tenant:
        current_principal().require_operator()
        return convert.tenant(await to_thread(self._store.tenants.create, request.tenant_id))

    async def GetTenant(self, request: pb.GetTenantRequest, context: Any) -> pb.Tenant:
        name = _tenant(request.name)
        return convert.tenant(await to_thread(self._store.tenants.get, name))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        current_principal().require_operator()
        page = await to_thread(self._store.tenants.list, request.page_size, request.page_token)
        return pb.ListTenantsResponse(tenants=map(convert.tenant, page.items), next_page_token=page.next_page_token)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        issued = await to_thread(self._store.tenants.issue_key, _tenant(request.parent), request.display_name)
        return pb.CreateApiKeyResponse(key=convert.key(issued.record), secret=issued.secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        record = await to_thread(self._store.tenants.get, _tenant(request.parent))
        return pb.ListApiKeysResponse(keys=map(convert.key, record.keys))

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.ApiKey:
        return convert.key(await to_thread(self._store.tenants.revoke_key, _tenant(request.parent), request.id))

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Any) -> pb.Adapter:
        name = AdapterName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        return convert.adapter(await to_thread(self._store.adapters.get, name.tenant, name.adapter))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Any) -> pb.ListAdaptersResponse:
        tenant = _tenant(request.parent)
        page = await to_thread(self._store.adapters.list, tenant, request.page_size, request.page_token)
        return pb.ListAdaptersResponse(adapters=map(convert.adapter, page.items), next_page_token=page.next_page_token)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Any) -> pb.Version:
        if "/aliases/" in request.name:
            alias = AliasName.parse(request.name)
            current_principal().require_tenant(alias.tenant)
            found = await to_thread(self._store.resolve, alias.tenant, alias.adapter, alias=alias.alias)
        else:
            name = VersionName.parse(request.name)
            current_principal().require_tenant(name.tenant)
            found = await to_thread(self._store.versions.get, name.tenant, name.adapter, name.version)
        return convert.version(found)

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        name = AdapterName.parse(request.parent)
        current_principal().require_tenant(name.tenant)
        page = await to_thread(
            self._store.versions.list, name.tenant, name.adapter, request.page_size, request.page_token
        )
        return pb.ListVersionsResponse(versions=map(convert.version, page.items), next_page_token=page.next_page_token)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.Alias:
        name = AliasName.parse(request.name)
        principal = current_principal()
        principal.require_tenant(name.tenant)
        record = await to_thread(
            self._store.aliases.set,
            name.tenant,
            name.adapter,
            name.alias,
            request.version,
            expected=request.expected_number if request.HasField("expected_number") else None,
            by=f"{principal.role.value} {principal.key_id}",
            reason=request.reason,
        )
        return convert.alias(record)

    async def ListAliasHistory(self, request: pb.ListAliasHistoryRequest, context: Any) -> pb.ListAliasHistoryResponse:
        name = AliasName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        records = await to_thread(self._store.aliases.history, name.tenant, name.adapter, name.alias)
        return pb.ListAliasHistoryResponse(records=map(convert.alias, records))


def _tenant(name: str) -> str:
    """The tenant of `tenants/{tenant}`, if the caller may name it; a tenant's key may leave it out."""
    principal = current_principal()
    if not name and principal.role is Role.TENANT and principal.tenant:
        return principal.tenant
    if not name:
        raise InvalidName("no tenant given: an operator's key must name one as tenants/<tenant>")
    tenant = TenantName.parse(name).tenant
    principal.require_tenant(tenant)
    return tenant
