"""`client.serving` of the asynchronous client."""

from graftwork.sdk import merged as merging
from graftwork.sdk import serving as calls
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.merged import MergedVersion
from graftwork.sdk.names import Scope
from graftwork.sdk.serving import Drained, Residency, ServingInfo, Tier
from graftwork.sdk.traffic import Traffic, get_traffic


class AsyncServing:
    """See `Serving`."""

    def __init__(self, wire: AsyncWire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    async def info(self) -> ServingInfo:
        """See `Serving.info`."""
        return await self._wire.call(calls.get_info())

    async def residency(self) -> tuple[Residency, ...]:
        """See `Serving.residency`."""
        return await self._wire.call(calls.list_residency())

    async def traffic(self, *, series: bool = False) -> Traffic:
        """See `Serving.traffic`."""
        return await self._wire.call(get_traffic(self._scope.parent if self._scope.tenant else "", series))

    async def prefetch(self, model: str, *, tier: Tier = Tier.HOST) -> Residency:
        """See `Serving.prefetch`."""
        return await self._wire.call(calls.prefetch(self._scope.tenant_id, model, tier))

    async def pin(self, model: str) -> Residency:
        """See `Serving.pin`."""
        return await self._wire.call(calls.pin(self._scope.tenant_id, model, False))

    async def unpin(self, model: str) -> Residency:
        """See `Serving.unpin`."""
        return await self._wire.call(calls.pin(self._scope.tenant_id, model, True))

    async def evict(self, adapter: str, version: str) -> int:
        """See `Serving.evict`."""
        return await self._wire.call(calls.evict(self._scope.tenant_id, adapter, version))

    async def drain(self, *, wait_seconds: float = 0.0) -> Drained:
        """See `Serving.drain`."""
        return await self._wire.call(calls.drain(wait_seconds))

    async def resume(self) -> Drained:
        """See `Serving.resume`."""
        return await self._wire.call(calls.drain(0.0, resume=True))

    async def merged(self) -> tuple[MergedVersion, ...]:
        """See `Serving.merged`."""
        return await self._wire.call(merging.list_merged())

    async def promote(self, model: str, *, wait: bool = True, timeout: float | None = None) -> MergedVersion:
        """See `Serving.promote`."""
        return await self._wire.call(merging.promote(self._scope.tenant_id, model, wait), timeout)

    async def demote(self, model: str) -> MergedVersion:
        """See `Serving.demote`."""
        return await self._wire.call(merging.demote(self._scope.tenant_id, model))
