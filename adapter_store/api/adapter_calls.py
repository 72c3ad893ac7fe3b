"""RegistryService's calls about adapters, versions and aliases, but for those that carry files (`transfer_calls`)."""

from asyncio import to_thread
from collections.abc import Callable
from functools import partial
from typing import Any

from adapter_store.api import convert
from adapter_store.api.callers import caller, own_tenant, request_of, visible
from adapter_store.errors import InvalidSplit
from adapter_store.manifest import AliasRecord, VersionManifest
from adapter_store.names import AdapterName, AliasName, VersionName
from adapter_store.signatures import KeptSignature
from adapter_store.store import AdapterStore
from graftwork.signing import PublicKey
from graftwork.v1 import registry_pb2 as pb


class AdapterCalls:
    """Mixed into `RegistryServicer`, which sets `_store`."""

    _store: AdapterStore

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Any) -> pb.Adapter:
        name = visible(AdapterName.parse(request.name))
        return convert.adapter(await to_thread(self._store.adapters.get, name.tenant, name.adapter))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Any) -> pb.ListAdaptersResponse:
        tenant = own_tenant(request.parent)
        page = await to_thread(self._store.adapters.list, tenant, request.page_size, request.page_token)
        return pb.ListAdaptersResponse(adapters=map(convert.adapter, page.items), next_page_token=page.next_page_token)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Any) -> pb.Version:
        manifest = await find_version(self._store, request.name)
        return convert.version(manifest, await to_thread(self._store.signatures.list, manifest))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        name = visible(AdapterName.parse(request.parent))
        page = await to_thread(
            self._store.adapters.list_versions, name.tenant, name.adapter, request.page_size, request.page_token
        )
        signatures = await to_thread(self._store.signatures.of_all, page.items)
        return pb.ListVersionsResponse(
            versions=map(convert.version, page.items, signatures), next_page_token=page.next_page_token
        )

    async def SignVersion(self, request: pb.SignVersionRequest, context: Any) -> pb.VersionSignature:
        manifest = await find_version(self._store, request.name)
        record = await to_thread(
            self._store.signatures.add, manifest, PublicKey(request.public_key), request.signature, by=caller()
        )
        return convert.signature(KeptSignature(record, ""))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.Alias:
        name = visible(AliasName.parse(request.name))
        if request.split and request.version:
            raise InvalidSplit("a version and a split were given; give one of them")
        weights = {share.version: share.weight for share in request.split}
        if len(weights) != len(request.split):
            raise InvalidSplit("the split names a version twice; give each one weight")
        about: dict[str, Any] = {
            "expected": request.expected_number if request.HasField("expected_number") else None,
            "by": caller(),
            "reason": request.reason,
            "request": request_of(request),
        }
        aliases, at = self._store.aliases, (name.tenant, name.adapter, name.alias)
        if weights:
            record = await to_thread(lambda: aliases.split(*at, weights, **about))
        else:
            record = await to_thread(lambda: aliases.set(*at, request.version, **about))
        return convert.alias(record)

    async def ListAliasHistory(self, request: pb.ListAliasHistoryRequest, context: Any) -> pb.ListAliasHistoryResponse:
        name = visible(AliasName.parse(request.name))
        page = await to_thread(
            self._store.aliases.history_page,
            *(name.tenant, name.adapter, name.alias),
            *(request.page_size, request.page_token),
        )
        return pb.ListAliasHistoryResponse(records=map(convert.alias, page.items), next_page_token=page.next_page_token)

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Any) -> pb.Alias:
        return await self._move(self._store.aliases.roll_back, request)

    async def SetAliasPolicy(self, request: pb.SetAliasPolicyRequest, context: Any) -> pb.Alias:
        set_route = partial(
            self._store.aliases.set_route,
            route=request.route,
            first_token_ms=request.first_token_ms,
            between_tokens_ms=request.between_tokens_ms,
        )
        return await self._move(set_route, request)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Any) -> pb.Alias:
        return await self._move(self._store.aliases.remove, request)

    async def _move(
        self,
        move: Callable[..., AliasRecord],
        request: pb.RollbackAliasRequest | pb.SetAliasPolicyRequest | pb.DeleteAliasRequest,
    ) -> pb.Alias:
        name = visible(AliasName.parse(request.name))
        expected = request.expected_number if request.HasField("expected_number") else None
        record = await to_thread(
            move,
            *(name.tenant, name.adapter, name.alias),
            expected=expected,
            by=caller(),
            reason=request.reason,
            request=request_of(request),
        )
        return convert.alias(record)

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Any) -> pb.Deletion:
        name = visible(VersionName.parse(request.name))
        record = await to_thread(
            self._store.removal.delete_version,
            *(name.tenant, name.adapter, name.version),
            by=caller(),
            reason=request.reason,
            request=request_of(request),
        )
        return convert.deletion(name, record)

    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, context: Any) -> pb.DeleteAdapterResponse:
        name = visible(AdapterName.parse(request.name))
        records = await to_thread(
            self._store.removal.delete_adapter,
            *(name.tenant, name.adapter),
            by=caller(),
            reason=request.reason,
            request=request_of(request),
        )
        return pb.DeleteAdapterResponse(
            versions=[
                convert.deletion(VersionName(name.tenant, name.adapter, version), record) for version, record in records
            ]
        )


async def find_version(store: AdapterStore, text: str) -> VersionManifest:
    """Returns the version that a version's or an alias's resource name means, if the caller may name it."""
    if "/aliases/" in text:
        alias = visible(AliasName.parse(text))
        return await to_thread(store.resolve, alias.tenant, alias.adapter, alias=alias.alias)
    name = visible(VersionName.parse(text))
    return await to_thread(store.versions.get, name.tenant, name.adapter, name.version)
