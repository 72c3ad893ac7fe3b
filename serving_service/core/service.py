"""The service as its transports see it: one object with the calls of the API, free of any wire.

Owns the wiring of routing, residency and generation, and the order of coming up and going down. Does not own processes or
signals (`__main__`).
"""

import importlib.metadata
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import structlog

from adapter_store import AdapterStore, BaseInfo
from adapter_store.names import parse_digest, parse_id
from graftwork.signing import TrustedKeys
from serving_service.core.generation import Call, Event, Generation, PromptLimits
from serving_service.core.residency import Residency, ResidentAdapter
from serving_service.core.routing import Router
from serving_service.core.trust import Trust
from serving_service.engine.protocol import Engine

log = structlog.get_logger(__name__)


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
        max_lora_rank: largest rank that the engine will take.
        limits: of prompts.
        trusted_keys: serve only what one of these public keys has signed; None serves unsigned versions too.

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
        max_lora_rank: int,
        limits: PromptLimits,
        trusted_keys: Path | None = None,
    ) -> None:
        self._base, self._engine = base, engine
        self._residency = Residency(store.versions, engine, cache_dir, disk_budget_bytes)
        trust = None
        if trusted_keys:
            keys = TrustedKeys(trusted_keys)
            log.info("serving signed versions only", trusted=sorted(keys.current()))
            trust = Trust(store.signatures, keys)
        router = Router(store, base_digest=base.digest, max_lora_rank=max_lora_rank, trust=trust)
        self._generation = Generation(router, self._residency, engine, limits)

    async def start(self) -> None:
        """Adopts the disk's adapters and loads the model."""
        adopted = await self._residency.adopt()
        info = await self._engine.start()
        log.info(
            "engine ready", engine=info.engine, dtype=info.dtype, seconds=round(info.start_seconds, 1), adopted=adopted
        )

    async def stop(self, drain_seconds: float) -> None:
        """Lets requests in flight finish for a bounded time, then ends everything."""
        if not await self._generation.drain(drain_seconds):
            log.warning("requests cut off by the stop", after_seconds=drain_seconds)
        await self._residency.close()
        await self._engine.stop()

    def generate(self, call: Call) -> AsyncGenerator[Event, None]:
        """Streams an answer; see `Generation.run`."""
        return self._generation.run(call)

    def about(self) -> About:
        """Says what runs here, also while it loads."""
        ready = self._engine.healthy
        info = self._engine.info if ready else None
        return About(
            version=importlib.metadata.version("graftwork"),
            base_model=self._base.model_id,
            base_digest=self._base.digest,
            max_loras=info.max_loras if info else 0,
            max_lora_rank=info.max_lora_rank if info else 0,
            max_model_len=info.max_model_len if info else 0,
            ready=ready,
        )

    async def residents(self) -> list[ResidentAdapter]:
        """Lists the adapters that are here."""
        return await self._residency.list()

    async def evict(self, tenant: str, adapter: str, version: str) -> int:
        """Drops a version; see `Residency.evict`."""
        key = parse_id("tenant", tenant), parse_id("adapter", adapter), parse_digest("version", version)
        return await self._residency.evict(*key)
