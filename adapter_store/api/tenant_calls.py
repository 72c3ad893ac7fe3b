"""RegistryService's calls about tenants and their keys."""

from asyncio import to_thread
from typing import Any

from adapter_store import keys
from adapter_store.api import convert
from adapter_store.api.callers import own_tenant, request_of
from adapter_store.names import NOBODY
from adapter_store.store import AdapterStore
from graftwork.rpc.auth import NotVisible, current_principal
from graftwork.v1 import registry_pb2 as pb


class TenantCalls:
    """Mixed into `RegistryServicer`, which sets `_store`."""

    _store: AdapterStore

    async def GetCaller(self, request: pb.GetCallerRequest, context: Any) -> pb.Caller:
        return convert.caller(current_principal())

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.Tenant:
        current_principal().require_operator()
        return convert.tenant(await to_thread(self._store.tenants.create, request.tenant_id, request_of(request)))

    async def GetTenant(self, request: pb.GetTenantRequest, context: Any) -> pb.Tenant:
        name = own_tenant(request.name)
        return convert.tenant(await to_thread(self._store.tenants.get, name))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        current_principal().require_overseer()
        page = await to_thread(self._store.tenants.list, request.page_size, request.page_token)
        return pb.ListTenantsResponse(tenants=map(convert.tenant, page.items), next_page_token=page.next_page_token)

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Any) -> pb.Tenant:
        current_principal().require_operator()
        record = await to_thread(
            self._store.tenants.update,
            own_tenant(request.name),
            disabled=request.disabled if request.HasField("disabled") else None,
            weight=request.weight if request.HasField("weight") else None,
            limits={field.name: value for field, value in request.limits.ListFields()},
            expected=request.expected_number if request.HasField("expected_number") else None,
            request=request_of(request),
        )
        return convert.tenant(record)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        tenant = own_tenant(request.parent)
        issued = await to_thread(self._store.tenants.issue_key, tenant, request.display_name, request_of(request))
        return pb.CreateApiKeyResponse(key=convert.key(issued.record), secret=issued.secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        tenant = own_tenant(request.parent)
        page = await to_thread(self._store.tenants.list_keys, tenant, request.page_size, request.page_token)
        return pb.ListApiKeysResponse(keys=map(convert.key, page.items), next_page_token=page.next_page_token)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.ApiKey:
        try:
            tenant = own_tenant(request.parent)
        except NotVisible:
            # The words and the work of a key that the caller's own tenant does not have.
            await to_thread(self._store.tenants.get, current_principal().tenant or NOBODY)
            raise keys.missing(request.id) from None
        return convert.key(await to_thread(self._store.tenants.revoke_key, tenant, request.id, request_of(request)))
