"""`client.tenants`: tenants, limits, API keys. Operators may call all of it, a tenant only what is about its own keys."""

from collections.abc import Iterator

from graftwork.sdk import tenants as calls
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.tenants import ApiKey, NewApiKey, Tenant


class Tenants:
    """Calls about tenants. Every one raises RemoteUnauthenticated, RemoteForbidden and RemoteUnavailable besides its own errors."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create(self, tenant: str) -> Tenant:
        """Makes a tenant.

        Args:
            tenant: its id, `[a-z0-9][a-z0-9-]{0,62}`.

        Raises:
            RemoteAlreadyExists: there is one.
            RemoteInvalid: no such id can be.
        """
        return self._wire.call(calls.create_tenant(tenant))

    def get(self, tenant: str) -> Tenant:
        """Looks a tenant up. Raises RemoteNotFound."""
        return self._wire.call(calls.get_tenant(tenant))

    def list(self) -> Iterator[Tenant]:
        """Yields all tenants, by id."""
        return self._wire.list(calls.list_tenants())

    def update(
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
        """Changes what is not None; a limit of 0 is unlimited. A disabled tenant's keys are refused within 5 s.

        Args:
            tenant: its id.
            disabled: refuse its keys.
            weight: its share of a busy fleet, 1 to 1000.
            requests_per_minute, tokens_per_minute, concurrency, queue_length: of generation.
            max_running_jobs, max_queued_jobs: of training.
            expected_number: refuse the change unless the record's number is this one.

        Raises:
            RemoteNotFound: no such tenant.
            RemoteConflict: `expected_number` is not the current one, which the message names.
            RemoteInvalid: a value out of its range.
        """
        return self._wire.call(
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

    def create_key(self, tenant: str, display_name: str = "") -> NewApiKey:
        """Issues a key. Its `secret` is in this answer only. Raises RemoteNotFound for an unknown tenant."""
        return self._wire.call(calls.create_key(tenant, display_name))

    def keys(self, tenant: str) -> Iterator[ApiKey]:
        """Yields a tenant's keys in the order in which they were issued, revoked ones too."""
        return self._wire.list(calls.list_keys(tenant))

    def revoke_key(self, tenant: str, key_id: str) -> ApiKey:
        """Makes a key worthless, within 5 s on every service. Raises RemoteNotFound."""
        return self._wire.call(calls.revoke_key(tenant, key_id))
