"""RegistryService's calls about adapters, versions and aliases, but for those that carry files (`transfer_calls`)."""

from asyncio import to_thread
from collections.abc import Callable
from typing import Any

from adapter_store.api import convert
from adapter_store.api.callers import caller, own_tenant
from adapter_store.errors import InvalidSplit
from adapter_store.manifest import AliasRecord, VersionManifest
from adapter_store.names import AdapterName, AliasName, VersionName
from adapter_store.store import AdapterStore
from graftwork.rpc.auth import current_principal
from graftwork.v1 import registry_pb2 as pb


class AdapterCalls:
    """Mixed into `RegistryServicer`, which sets `_store`."""

    _store: AdapterStore

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Any) -> pb.Adapter:
        name = AdapterName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        return convert.adapter(await to_thread(self._store.adapters.get, name.tenant, name.adapter))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Any) -> pb.ListAdaptersResponse:
        tenant = own_tenant(request.parent)
        page = await to_thread(self._store.adapters.list, tenant, request.page_size, request.page_token)
        return pb.ListAdaptersResponse(adapters=map(convert.adapter, page.items), next_page_token=page.next_page_token)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Any) -> pb.Version:
        return convert.version(await find_version(self._store, request.name))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        name = AdapterName.parse(request.parent)
        current_principal().require_tenant(name.tenant)
        page = await to_thread(
            self._store.versions.list, name.tenant, name.adapter, request.page_size, request.page_token
        )
        return pb.ListVersionsResponse(versions=map(convert.version, page.items), next_page_token=page.next_page_token)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.Alias:
        name = AliasName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        if request.split and request.version:
            raise InvalidSplit("a version and a split were given; give one of them")
        weights = {share.version: share.weight for share in request.split}
        if len(weights) != len(request.split):
            raise InvalidSplit("the split names a version twice; give each one weight")
        about: dict[str, Any] = {
            "expected": request.expected_number if request.HasField("expected_number") else None,
            "by": caller(),
            "reason": request.reason,
        }
        aliases, at = self._store.aliases, (name.tenant, name.adapter, name.alias)
        if weights:
            record = await to_thread(lambda: aliases.split(*at, weights, **about))
        else:
            record = await to_thread(lambda: aliases.set(*at, request.version, **about))
        return convert.alias(record)

    async def ListAliasHistory(self, request: pb.ListAliasHistoryRequest, context: Any) -> pb.ListAliasHistoryResponse:
        name = AliasName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        records = await to_thread(self._store.aliases.history, name.tenant, name.adapter, name.alias)
        return pb.ListAliasHistoryResponse(records=map(convert.alias, records))

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Any) -> pb.Alias:
        return await self._move(self._store.aliases.roll_back, request)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Any) -> pb.Alias:
        return await self._move(self._store.aliases.remove, request)

    async def _move(
        self, move: Callable[..., AliasRecord], request: pb.RollbackAliasRequest | pb.DeleteAliasRequest
    ) -> pb.Alias:
        name = AliasName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        expected = request.expected_number if request.HasField("expected_number") else None
        by, reason = caller(), request.reason
        record = await to_thread(move, name.tenant, name.adapter, name.alias, expected=expected, by=by, reason=reason)
        return convert.alias(record)

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Any) -> pb.Deletion:
        name = VersionName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        delete = self._store.removal.delete_version
        record = await to_thread(delete, name.tenant, name.adapter, name.version, by=caller(), reason=request.reason)
        return convert.deletion(name, record)

    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, context: Any) -> pb.DeleteAdapterResponse:
        name = AdapterName.parse(request.name)
        current_principal().require_tenant(name.tenant)
        delete = self._store.removal.delete_adapter
        records = await to_thread(delete, name.tenant, name.adapter, by=caller(), reason=request.reason)
        return pb.DeleteAdapterResponse(
            versions=[
                convert.deletion(VersionName(name.tenant, name.adapter, version), record) for version, record in records
            ]
        )


async def find_version(store: AdapterStore, text: str) -> VersionManifest:
    """Returns the version that a version's or an alias's resource name means, if the caller may name it."""
    if "/aliases/" in text:
        alias = AliasName.parse(text)
        current_principal().require_tenant(alias.tenant)
        return await to_thread(store.resolve, alias.tenant, alias.adapter, alias=alias.alias)
    name = VersionName.parse(text)
    current_principal().require_tenant(name.tenant)
    return await to_thread(store.versions.get, name.tenant, name.adapter, name.version)
