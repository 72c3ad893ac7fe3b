"""`client.serving`: what the serving service runs and holds. All but `info` and `traffic` is for operators."""

from graftwork.sdk import merged as merging
from graftwork.sdk import serving as calls
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.merged import MergedVersion
from graftwork.sdk.names import Scope
from graftwork.sdk.serving import Drained, Residency, ServingInfo, Tier
from graftwork.sdk.traffic import Traffic, get_traffic


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

    def traffic(self, *, series: bool = False) -> Traffic:
        """Tells what was asked of this node in the last 1, 5 and 60 minutes, and what came of it.

        The client's tenant's alone; everybody's for an operator's client without a tenant.

        Args:
            series: also how it came over time, in steps of 5 s and of 60 s.
        """
        return self._wire.call(get_traffic(self._scope.parent if self._scope.tenant else "", series))

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
        """Drops a version from the device, host memory and disk; returns the bytes of disk that it freed. Never repeated by itself.

        Raises:
            RemotePrecondition: requests use it. RemoteNotFound: the service does not hold it.
        """
        return self._wire.call(calls.evict(self._scope.tenant_id, adapter, version))

    def drain(self, *, wait_seconds: float = 0.0) -> Drained:
        """Takes the node out of traffic without ending it: new requests are refused, those under way finish.

        Args:
            wait_seconds: to return when nothing is under way any more, or they are over; look at `running`. At most an hour.
        """
        return self._wire.call(calls.drain(wait_seconds))

    def resume(self) -> Drained:
        """Takes requests again. Raises RemotePrecondition once the service stops."""
        return self._wire.call(calls.drain(0.0, resume=True))

    def merged(self) -> tuple[MergedVersion, ...]:
        """Lists the versions that run merged, in engines of their own, or are to; all tenants'."""
        return self._wire.call(merging.list_merged())

    def promote(self, model: str, *, wait: bool = True, timeout: float | None = None) -> MergedVersion:
        """Merges a version and serves it by an engine of its own; its requests go through the adapter slots until then.

        Moving an alias is `client.adapters.promote`; an alias whose route is `merged` needs no call of this.

        Args:
            model: as in `Client.generate`; the version that it means now.
            wait: return once it serves, or has failed for the first time; look at `state` and `why`.
            timeout: seconds; None: an hour with `wait`.

        Raises:
            RemotePrecondition: this service has no room for merged versions. RemoteNotFound: no such version.
        """
        return self._wire.call(merging.promote(self._scope.tenant_id, model, wait), timeout)

    def demote(self, model: str) -> MergedVersion:
        """Ends a version's merged engine once its requests have finished; they go through the adapter slots again.

        Never repeated by itself: somebody may have promoted the version again in between.

        Raises:
            RemoteNotFound: it is not merged.
        """
        return self._wire.call(merging.demote(self._scope.tenant_id, model))
