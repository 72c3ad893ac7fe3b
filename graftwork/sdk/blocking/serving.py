"""`client.serving`: what the serving service runs and holds. All but `info` is for operators."""

from graftwork.sdk import serving as calls
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.names import Scope
from graftwork.sdk.serving import Residency, ServingInfo, Tier


class Serving:
    """Calls about the serving service and the adapters that it holds. `model` is as in `Client.generate`."""

    def __init__(self, wire: Wire, scope: Scope) -> None:
        self._wire, self._scope = wire, scope

    def info(self) -> ServingInfo:
        """Tells which backbone runs, its limits, and whether it takes requests."""
        return self._wire.call(calls.get_info())

    def residency(self) -> tuple[Residency, ...]:
        """Lists the versions that are on disk, in host memory or in a slot of the device; all tenants'."""
        return self._wire.call(calls.list_residency())

    def prefetch(self, model: str, *, tier: Tier = Tier.HOST) -> Residency:
        """Brings a version in before anybody asks for it, to `Tier.DISK` or `Tier.HOST`, and returns when it is there.

        Raises:
            RemoteNotFound: no such version. RemoteCorrupt: its stored bytes are damaged. RemoteExhausted: no room.
        """
        return self._wire.call(calls.prefetch(self._scope.tenant_id, model, tier))

    def pin(self, model: str) -> Residency:
        """Keeps a version in host memory, bringing it there first. Raises as `prefetch` does."""
        return self._wire.call(calls.pin(self._scope.tenant_id, model, False))

    def unpin(self, model: str) -> Residency:
        """Lets a pinned version go again."""
        return self._wire.call(calls.pin(self._scope.tenant_id, model, True))

    def evict(self, adapter: str, version: str) -> int:
        """Drops a version from the device, host memory and disk; returns the bytes of disk that it freed.

        Raises:
            RemotePrecondition: requests use it. RemoteNotFound: the service does not hold it.
        """
        return self._wire.call(calls.evict(self._scope.tenant_id, adapter, version))
