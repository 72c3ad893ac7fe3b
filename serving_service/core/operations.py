"""What operators ask of a node: which adapters it holds and runs merged, and that it brings, keeps, drops or merges one.

Owns these calls: which version a name means, and what is told of how it was before. Does not own the moves (`residency`, `fast_path`),
nor who may ask.
"""

from collections.abc import Callable

from adapter_store.manifest import VersionManifest
from adapter_store.names import parse_digest, parse_id
from serving_service.core.adapter_entry import Key, ResidentAdapter, Standing, key_of
from serving_service.core.errors import FastPathOff, InvalidRequest
from serving_service.core.fast_path.fast_path import FastPath
from serving_service.core.fast_path.life import MergedRow
from serving_service.core.residency import Residency
from serving_service.core.routing import Router
from serving_service.engine.protocol import Tier


def _nobody(_: object) -> None:
    """Wants to know nothing of the time before."""


class Operations:
    """Of one node.

    Args:
        router: what a name means.
        residency: where adapters are.
        path: what merges them; None: nothing is merged here.
    """

    def __init__(self, router: Router, residency: Residency, path: FastPath | None) -> None:
        self._router, self._residency, self._path = router, residency, path

    async def residents(self) -> list[ResidentAdapter]:
        """Lists the adapters that are here."""
        return await self._residency.list()

    async def prefetch(
        self, tenant: str, model: str, tier: Tier, *, before: Callable[[Standing], None] = _nobody
    ) -> ResidentAdapter:
        """Brings the version that `model` means into a tier.

        Args:
            tenant, model: which.
            tier: disk or host memory.
            before: told where the version was; so in the other operators' calls.

        Raises:
            InvalidRequest: the base, or a tier that nothing is fetched to. Else as `Router.resolve` and `Residency.lease`.
        """
        if tier not in (Tier.DISK, Tier.HOST):
            raise InvalidRequest(f"tier is {tier}; adapters are fetched to disk or host, a device slot is given on use")
        manifest = await self._version(tenant, model)
        before(self._residency.standing(key_of(manifest)))
        return await self._residency.prefetch(manifest, to=tier)

    async def pin(self, tenant: str, model: str, *, before: Callable[[Standing], None] = _nobody) -> ResidentAdapter:
        """Brings the version that `model` means now into host memory, and keeps it there."""
        manifest = await self._version(tenant, model)
        before(self._residency.standing(key_of(manifest)))
        return await self._residency.prefetch(manifest, to=Tier.HOST, pin=True)

    async def unpin(self, tenant: str, model: str, *, before: Callable[[Standing], None] = _nobody) -> ResidentAdapter:
        """Lets a version be evicted again; raises NotResident when it is not here."""
        manifest = await self._version(tenant, model)
        before(self._residency.standing(key_of(manifest)))
        return self._residency.unpin(manifest.tenant, manifest.adapter, manifest.version)

    async def evict(
        self, tenant: str, adapter: str, version: str, *, before: Callable[[Standing], None] = _nobody
    ) -> int:
        """Drops a version; see `Residency.evict`."""
        key = parse_id("tenant", tenant), parse_id("adapter", adapter), parse_digest("version", version)
        before(self._residency.standing(key))
        return await self._residency.evict(*key)

    def merged(self) -> list[MergedRow]:
        """Lists the versions that are merged, or are to be."""
        return self._path.rows() if self._path else []

    async def promote(
        self, tenant: str, model: str, *, wait: bool, before: Callable[[MergedRow | None], None] = _nobody
    ) -> MergedRow:
        """Wants the version that `model` means now merged; see `FastPath.promote`. Raises FastPathOff when nothing is merged here."""
        path, manifest = self._merging(), await self._version(tenant, model)
        before(self._merged_row(key_of(manifest)))
        return await path.promote(manifest, wait=wait)

    async def demote(
        self, tenant: str, model: str, *, before: Callable[[MergedRow | None], None] = _nobody
    ) -> MergedRow:
        """Ends the merged engine of the version that `model` means now; see `FastPath.demote`."""
        path, manifest = self._merging(), await self._version(tenant, model)
        before(self._merged_row(key_of(manifest)))
        return path.demote(manifest)

    async def _version(self, tenant: str, model: str) -> VersionManifest:
        manifest = await self._router.resolve(parse_id("tenant", tenant), model)
        if manifest is None:
            raise InvalidRequest("model is empty: say which adapter, 'adapter', 'adapter:alias' or 'adapter@version'")
        return manifest

    def _merging(self) -> FastPath:
        if self._path is None:
            raise FastPathOff(
                "this service merges nothing: set GRAFT_SERVING_MERGED_BUDGET_BYTES to the bytes that merged engines may take"
            )
        return self._path

    def _merged_row(self, key: Key) -> MergedRow | None:
        return next((row for row in self.merged() if (row.tenant, row.adapter, row.version) == key), None)
