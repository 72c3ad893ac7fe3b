"""`client.tenants` of the asynchronous client."""

from collections.abc import AsyncIterator

from graftwork.sdk import tenants as calls
from graftwork.sdk.asynchronous.wire import AsyncWire
from graftwork.sdk.tenants import ApiKey, NewApiKey, Tenant


class AsyncTenants:
    """See `Tenants`."""

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    async def create(self, tenant: str) -> Tenant:
        """See `Tenants.create`."""
        return await self._wire.call(calls.create_tenant(tenant))

    async def get(self, tenant: str) -> Tenant:
        """See `Tenants.get`."""
        return await self._wire.call(calls.get_tenant(tenant))

    def list(self) -> AsyncIterator[Tenant]:
        """See `Tenants.list`."""
        return self._wire.list(calls.list_tenants())

    async def update(
        self,
        tenant: str,
        *,
        disabled: bool | None = None,
        weight: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrency: int | None = None,
        queue_length: int | None = None,
        max_running_jobs: int | None = None,
        max_queued_jobs: int | None = None,
        expected_number: int | None = None,
    ) -> Tenant:
        """See `Tenants.update`."""
        return await self._wire.call(
            calls.update_tenant(
                tenant,
                disabled=disabled,
                weight=weight,
                expected_number=expected_number,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                concurrency=concurrency,
                queue_length=queue_length,
                max_running_jobs=max_running_jobs,
                max_queued_jobs=max_queued_jobs,
            )
        )

    async def create_key(self, tenant: str, display_name: str = "") -> NewApiKey:
        """See `Tenants.create_key`."""
        return await self._wire.call(calls.create_key(tenant, display_name))

    def keys(self, tenant: str) -> AsyncIterator[ApiKey]:
        """See `Tenants.keys`."""
        return self._wire.list(calls.list_keys(tenant))

    async def revoke_key(self, tenant: str, key_id: str) -> ApiKey:
        """See `Tenants.revoke_key`."""
        return await self._wire.call(calls.revoke_key(tenant, key_id))
