"""The service as its transports see it: one object with the calls of the API, free of any wire.

Owns the wiring of routing, residency and generation, and the order of coming up and going down. Does not own processes or
signals (`__main__`), nor what operators ask of adapters (`operations`).
"""

import asyncio
import importlib.metadata
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from adapter_store import AdapterStore, BaseInfo
from adapter_store.manifest import VersionManifest
from adapter_store.spare_files import SpareFiles
from adapter_store.versions import Versions
from graftwork.signing import TrustedKeys
from serving_service.core.adapter_entry import Census
from serving_service.core.admission import Admission, AdmissionCounts
from serving_service.core.admission_limits import AdmissionLimits, TenantPolicy
from serving_service.core.answers import Event
from serving_service.core.catalogue import Catalogue, Model
from serving_service.core.errors import Stopping
from serving_service.core.fast_path.alias_watch import watch_aliases
from serving_service.core.fast_path.auto import AutoPromotion, AutoRules
from serving_service.core.fast_path.budget import MergedBudget
from serving_service.core.fast_path.fast_path import NOTHING_MERGED, FastPath
from serving_service.core.fast_path.life import State
from serving_service.core.fast_path.probe import Prober
from serving_service.core.fast_path.weights import MergedStore, Weights
from serving_service.core.generation import Call, Generation
from serving_service.core.observing import NOBODY_WATCHES, Observer, Observers
from serving_service.core.opened import Opened
from serving_service.core.operations import Operations
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.readiness import Readiness, ReadinessBook
from serving_service.core.residency import Residency
from serving_service.core.routing import Router
from serving_service.core.store_watch import watch_store
from serving_service.core.tenant_policies import TenantPolicies
from serving_service.core.traffic import Traffic
from serving_service.core.trust import Trust
from serving_service.engine.merged_protocol import MergedEngines
from serving_service.engine.protocol import Engine

_STORE_SECONDS = 5.0  # between two looks at whether the store answers

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _IntoSpares:
    """Fetches versions into files whose pages are there."""

    versions: Versions
    spares: SpareFiles

    def fetch(self, manifest: VersionManifest, dest: Path) -> Path:
        return self.versions.fetch(manifest, dest, self.spares.new_file)


@dataclass(frozen=True, slots=True)
class Merging:
    """What the fast path needs.

    Attributes:
        engines: makes merged engines.
        folder: for merged weights, while they are in use; of this service alone.
        budget_bytes: that all of them may take.
        count: most of them.
        start_seconds: most that the start of one may take.
        auto: when aliases with the route auto get one.
        store: keeps merged weights for other nodes; None: each merges for itself.
    """

    engines: MergedEngines
    folder: Path
    budget_bytes: int
    count: int
    start_seconds: float
    auto: AutoRules = field(default_factory=AutoRules)
    store: MergedStore | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What runs here; sizes are 0 while the engine loads."""

    version: str
    base_model: str
    base_digest: str
    max_loras: int
    max_lora_rank: int
    max_model_len: int
    ready: bool


class Serving:
    """The serving service without its transport.

    Args:
        store: where adapters come from.
        base: the backbone that the engine runs.
        engine: not yet started.
        cache_dir: the disk tier.
        disk_budget_bytes: its size.
        host_budget_bytes: of adapters in the engine's host memory.
        max_lora_rank: largest rank that the engine will take.
        limits: of prompts.
        admission: of requests at once and waiting.
        tenant_defaults: what a tenant may use where its record does not say.
        trusted_keys: serve only what one of these public keys has signed; None serves unsigned versions too.
        observer: is told what requests and adapters do, besides what the service counts itself.
        merging: None merges nothing.

    Raises:
        InvalidKeyFile: `trusted_keys` holds none.
    """

    def __init__(
        self,
        *,
        store: AdapterStore,
        base: BaseInfo,
        engine: Engine,
        cache_dir: Path,
        disk_budget_bytes: int,
        host_budget_bytes: int,
        max_lora_rank: int,
        limits: PromptLimits,
        admission: AdmissionLimits,
        tenant_defaults: TenantPolicy,
        trusted_keys: Path | None = None,
        observer: Observer = NOBODY_WATCHES,
        merging: Merging | None = None,
    ) -> None:
        self._store, self._base, self._engine = store, base, engine
        self.traffic = Traffic()
        auto = AutoPromotion(merging.auto) if merging and merging.auto.changes_per_hour else None
        observer = Observers([self.traffic, *([auto] if auto else []), observer])
        self._version_here = importlib.metadata.version("graftwork")  # parses a file: not with every request
        self._readiness = ReadinessBook(lambda: engine.healthy, lambda: store.outage.state)
        self._watches: list[asyncio.Task[None]] = []
        self._spares = SpareFiles(cache_dir.with_name("spare"))
        self._residency = Residency(
            _IntoSpares(store.versions, self._spares),
            engine,
            cache_dir,
            disk_budget=disk_budget_bytes,
            host_budget=host_budget_bytes,
            outage=store.outage,
            observer=observer,
        )
        trust = None
        if trusted_keys:
            keys = TrustedKeys(trusted_keys)
            log.info("serving signed versions only", trusted=sorted(keys.current()))
            trust = Trust(store.signatures, keys, outage=store.outage)
        router = Router(store, base_digest=base.digest, max_lora_rank=max_lora_rank, trust=trust, outage=store.outage)
        self._router, self._catalogue = router, Catalogue(store.adapters)
        self.limits = limits
        self._policies = TenantPolicies(store.tenants.get, tenant_defaults)
        self._admission = Admission(admission, self._policies.of)
        self._fast_path = self._merged(merging, observer, auto) if merging else None
        self._generation = Generation(
            router, self._residency, engine, limits, self._admission, observer, self._fast_path
        )
        self._under_way, self._ending = self._generation.under_way, False
        self.operations = Operations(router, self._residency, self._fast_path)

    def _merged(self, merging: Merging, observer: Observer, auto: AutoPromotion | None) -> FastPath:
        return FastPath(
            merging.engines,
            Weights(merging.engines, self._residency, self._base.digest, merging.store, self._store.outage),
            Prober(self._engine, self._admission, self._residency),
            MergedBudget(merging.budget_bytes, merging.count),
            merging.folder,
            observer=observer,
            start_seconds=merging.start_seconds,
            auto=auto,
        )

    async def start(self) -> None:
        """Adopts the disk's adapters and loads the model."""
        adopted = await self._residency.adopt()
        if self._fast_path:
            await self._fast_path.clear()
        self._watches.append(asyncio.create_task(watch_store(self._store, _STORE_SECONDS), name="store watch"))
        info = await self._engine.start()
        if self._fast_path:
            watch = watch_aliases(self._fast_path, self._router.look)
            self._watches.append(asyncio.create_task(watch, name="alias watch"))
        self._readiness.loaded()
        log.info(
            "engine ready", engine=info.engine, dtype=info.dtype, seconds=round(info.start_seconds, 1), adopted=adopted
        )

    def drain(self, *, ending: bool = False) -> None:
        """Takes no new requests from now on and says so in `readiness`; `ending`: for good."""
        self._ending = self._ending or ending
        self._readiness.drain()
        self._under_way.take(False)

    def resume(self) -> None:
        """Takes requests again after a `drain`. Raises Stopping once the service is told to end."""
        if self._ending:
            raise Stopping("the service is stopping and takes no requests again; start it anew")
        self._readiness.resume()
        self._under_way.take(True)

    async def drained(self, seconds: float) -> int:
        """Waits for the requests in flight for a bounded time, or until there is a `resume`; returns how many are left."""
        await self._under_way.over(seconds)
        if self.running and self._ending:
            log.warning("requests cut off by the stop", after_seconds=seconds, requests=self.running)
        return self.running

    async def stop(self) -> None:
        """Ends everything; requests that are still in flight fail with UNAVAILABLE."""
        self.drain(ending=True)
        self._readiness.stopped()
        for watch in self._watches:
            watch.cancel()
        self._admission.close()
        if self._fast_path:
            await self._fast_path.close()
        await self._router.close()
        await self._policies.close()
        await self._residency.close()
        await asyncio.to_thread(self._spares.close)
        await self._engine.stop()

    def generate(self, call: Call) -> AsyncGenerator[Event, None]:
        """Streams an answer; see `Generation.run`."""
        return self._generation.run(call)

    def engine_died(self) -> None:
        """Says so in `readiness` until the end."""
        self._readiness.died()

    def readiness(self) -> Readiness:
        """Says whether this node should get traffic, and the state of each part."""
        return self._readiness.current()

    def census(self) -> Census:
        """See `Residency.census`."""
        return self._residency.census()

    @property
    def running(self) -> int:
        """Requests under way."""
        return self._under_way.count

    def open(self, call: Call) -> AbstractAsyncContextManager[Opened]:
        """Opens a request that the engine's own front end renders; see `Generation.open`."""
        return self._generation.open(call)

    def max_model_len(self) -> int:
        """Prompt and answer together, in tokens. Raises EngineUnavailable while the engine loads."""
        return self._engine.info.max_model_len

    async def models(self, tenant: str) -> tuple[Model, ...]:
        """Lists what a tenant may call, without the base; see `Catalogue.of`."""
        return await self._catalogue.of(tenant)

    async def version_of(self, account: str, owner: str, model: str) -> str:
        """Returns the version that a request would get now; see `Generation.resolve`."""
        manifest = await self._generation.resolve(account, owner, model)
        return manifest.version if manifest else ""

    def about(self) -> About:
        """Says what runs here, also while it loads."""
        ready = self._engine.healthy
        info = self._engine.info if ready else None
        return About(
            version=self._version_here,
            base_model=self._base.model_id,
            base_digest=self._base.digest,
            max_loras=info.max_loras if info else 0,
            max_lora_rank=info.max_lora_rank if info else 0,
            max_model_len=info.max_model_len if info else 0,
            ready=ready,
        )

    def admission_counts(self) -> AdmissionCounts:
        """How many requests run and wait now."""
        return self._admission.counts()

    def merged_census(self) -> dict[State, int]:
        """Counts them by state."""
        return self._fast_path.census() if self._fast_path else NOTHING_MERGED
