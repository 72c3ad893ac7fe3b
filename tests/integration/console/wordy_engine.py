"""Engines for what a browser is to see: two slots, answers that say which version made them, a word at a time, held at will."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from serving_service.engine.merged_protocol import MERGED_WEIGHTS, MergedFiles
from serving_service.engine.protocol import (
    Delta,
    EngineInfo,
    LoraRef,
    Message,
    Prompt,
    Rendered,
    Sampling,
    Tier,
    TokenIds,
    TokenScores,
)
from tests.unit.serving.scripted import ScriptedEngine

SLOTS = 2
HELD = "hold it"
"""In a prompt: its answers stop after their first word until `release`."""


class WordyEngine(ScriptedEngine):
    """Runs adapters in two slots.

    Args:
        merged: what it says it is, for an engine of merged weights.
    """

    info = EngineInfo("scripted", SLOTS, 16, 512, "float32", 0.0)

    def __init__(self, merged: str = "") -> None:
        super().__init__()
        self._merged = merged
        self._slots: list[str | None] = [None] * SLOTS
        self.gate = asyncio.Event()

    def tier(self, name: str) -> Tier | None:
        if name not in self.held:
            return None
        return Tier.DEVICE if name in self._slots else Tier.HOST

    def slot(self, name: str) -> int | None:
        return self._slots.index(name) if name in self._slots else None

    def device_ms(self, name: str) -> float:
        return 1.5 if name in self.held else 0.0

    def watch_slots(self, told: Callable[[float], None]) -> None:
        pass

    async def load(self, lora: LoraRef) -> int:
        self.held.add(lora.name)
        if lora.name not in self._slots:
            self._slots = [lora.name, *self._slots[: SLOTS - 1]] if None not in self._slots else self._filled(lora.name)
        return 48_000

    async def unload(self, name: str) -> None:
        self.held.discard(name)
        self._slots = [None if held == name else held for held in self._slots]

    def _filled(self, name: str) -> list[str | None]:
        free = self._slots.index(None)
        return [name if at == free else held for at, held in enumerate(self._slots)]

    async def render(self, prompt: Prompt, template: str | None) -> Rendered:
        text = prompt if isinstance(prompt, str) else ""
        if isinstance(prompt, tuple) and all(isinstance(part, Message) for part in prompt):
            text = " ".join(part.content for part in prompt)
        assert not isinstance(prompt, TokenIds)
        return Rendered([int(HELD in text), *range(1, len(text.split()) + 1)])

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
        name = self._merged or (lora.name if lora else "")
        words = [f"{name.partition('@')[2][:12] or 'base'} ", "answers ", "<b>so</b>."]
        for at, word in enumerate(words):
            if at == 1 and rendered.token_ids[0]:
                await self.gate.wait()
            last = at == len(words) - 1
            yield Delta(word, 1, "stop" if last else None, TokenScores((at,), (-0.1,), (((at, -0.1),),)))


class WordyMerges:
    """Makes engines of merged weights that answer like the adapter itself."""

    async def merge(self, adapter: Path, into: Path) -> MergedFiles:
        def write() -> None:
            into.mkdir(parents=True)
            (into / MERGED_WEIGHTS).write_bytes(b"weights")

        await asyncio.to_thread(write)
        return MergedFiles(into, 7, 1)

    async def start(self, name: str, merged: Path) -> WordyEngine:
        return WordyEngine(name)

    def bytes_of(self, merged: MergedFiles) -> int:
        return 7_000_000
