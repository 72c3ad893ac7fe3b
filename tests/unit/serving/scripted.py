"""A serving core whose engine says what a test tells it to; everything else is the real thing."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from adapter_store import Target, VersionManifest
from adapter_store.errors import NotFound
from adapter_store.outage import Outage
from graftwork.trace_context import trace_headers
from serving_service.core.admission import Admission
from serving_service.core.admission_limits import AdmissionLimits, TenantPolicy
from serving_service.core.answers import Event
from serving_service.core.generation import Call, Generation
from serving_service.core.observing import Observer
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.residency import Residency
from serving_service.core.routing import Router
from serving_service.engine.protocol import (
    Delta,
    EngineInfo,
    EngineUnavailable,
    LoraRef,
    Prompt,
    Rendered,
    Sampling,
    Tier,
)

ADMISSION = AdmissionLimits(running=32, newcomers=1, waiting=100, adapters=4, overtakes=8, overtake_seconds=10.0)
BASE, VERSION = "a" * 64, "1" * 64


def manifest() -> VersionManifest:
    return VersionManifest.model_validate(
        {
            "tenant": "acme",
            "adapter": "task",
            "version": VERSION,
            "created_at": datetime.now(UTC),
            "files": (),
            "base_model": "some-base",
            "base_revision": None,
            "base_digest": BASE,
            "template_digest": "c" * 64,
            "config": {},
            "rank": 8,
            "alpha": 16.0,
            "target_modules": ("q_proj",),
            "dtype": "F32",
            "parameters": 1,
            "made": {"made_by": "tests"},
        }
    )


class ScriptedEngine:
    """Gives `pieces` for every prompt; `hold` makes it wait after the first, `fail` makes it die there."""

    def __init__(self) -> None:
        self.pieces = [Delta("a", 1), Delta("b", 2), Delta("", 1, "stop")]
        self.hold: asyncio.Event | None = None
        self.fail = False
        self.healthy = True
        self.held: set[str] = set()
        self.traces: list[str] = []
        self.crowds: Callable[[], bool] | None = None
        """As the last request brought it."""

    info = EngineInfo("scripted", 2, 16, 512, "float32", 0.0)

    def tier(self, name: str) -> Tier | None:
        return Tier.DEVICE if name in self.held else None

    def slot(self, name: str) -> int | None:
        return sorted(self.held).index(name) if name in self.held else None

    def device_ms(self, name: str) -> float:
        return 1.5 if name in self.held else 0.0

    def watch_slots(self, told: Callable[[float], None]) -> None:
        pass

    async def load(self, lora: LoraRef) -> int:
        self.held.add(lora.name)
        return 10

    def loading(self, size: int) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def unload(self, name: str) -> None:
        self.held.discard(name)

    async def refresh(self) -> None:
        pass

    async def start(self) -> EngineInfo:
        return self.info

    async def stop(self) -> None:
        self.healthy = False

    async def died(self) -> str:
        return await asyncio.get_running_loop().create_future()

    async def render(self, prompt: Prompt, template: str | None) -> Rendered:
        return Rendered([1, 2, 3])

    async def generate(
        self,
        request_id: str,
        rendered: Rendered,
        sampling: Sampling,
        *,
        lora: LoraRef | None,
        tenant: str,
        newcomer: bool = False,
        crowds: Callable[[], bool] | None = None,
    ) -> AsyncGenerator[Delta, None]:
        self.crowds = crowds
        self.traces.append(trace_headers().get("traceparent", ""))
        for number, piece in enumerate(self.pieces):
            if number == 1 and self.hold:
                await self.hold.wait()
            if number == 1 and self.fail:
                raise EngineUnavailable("died")
            yield piece


class Store:
    """Knows acme's `task`."""

    outage = Outage()

    def targets(
        self, tenant: str, adapter: str, *, alias: str | None = None, version: str | None = None
    ) -> tuple[Target, ...]:
        if (tenant, adapter) != ("acme", "task"):
            raise NotFound(f"no adapter {adapter}")
        return (Target(manifest(), 1),)

    def fetch(self, manifest: VersionManifest, dest: Path) -> Path:
        dest.mkdir(parents=True, exist_ok=True)
        (dest / "chat_template.jinja").write_text("{{ messages }}")
        return dest


async def _no_limits(tenant: str) -> TenantPolicy:
    return TenantPolicy()


def generation(folder: Path, observer: Observer, engine: ScriptedEngine) -> Generation:
    store = Store()
    residency = Residency(store, engine, folder, disk_budget=10**9, host_budget=10**9, observer=observer)
    router = Router(store, base_digest=BASE, max_lora_rank=16)
    admission = Admission(ADMISSION, _no_limits)
    return Generation(router, residency, engine, PromptLimits(1000, 10), admission, observer)


async def answer(core: Generation, model: str = "task", prompt: str = "a secret prompt") -> list[Event]:
    return [event async for event in core.run(Call("acme", model, prompt))]
