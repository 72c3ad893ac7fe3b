"""A serving core with a fast path whose engines say which version they run, and notice when they are misused.

Everything but the engines and the store is the real thing. What a request's prompt says decides where it is held: see `Prompt`.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adapter_store import Target, VersionManifest
from adapter_store.errors import NotFound, StoreUnavailable
from adapter_store.outage import Outage
from serving_service.core.admission import Admission
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.answers import Event, Started, Text
from serving_service.core.fast_path.auto import AutoPromotion, AutoRules
from serving_service.core.fast_path.budget import MergedBudget
from serving_service.core.fast_path.fast_path import FastPath
from serving_service.core.fast_path.life import MergedRow, State
from serving_service.core.fast_path.living import Backoff
from serving_service.core.fast_path.probe import Prober
from serving_service.core.fast_path.weights import MergedStore, Weights
from serving_service.core.generation import Call, Generation
from serving_service.core.observing import Seen
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.residency import Residency
from serving_service.core.routing import Router
from serving_service.engine.merged_protocol import MERGED_WEIGHTS, MergedFiles
from serving_service.engine.protocol import (
    AdapterRefused,
    Delta,
    EngineUnavailable,
    LoraRef,
    Rendered,
    Sampling,
    TokenIds,
    TokenScores,
)
from tests.unit.serving.scripted import ADMISSION, BASE, ScriptedEngine, manifest

SLOW = Backoff(first=60, most=600)
SIZE = 10
"""Bytes of each merged engine."""


class Prompt(IntEnum):
    """Where a request waits until `World.release`."""

    GO = 1
    BEFORE = 2
    """Before its first token."""
    AFTER = 3


def version(number: int) -> VersionManifest:
    """Version `number`, 1 to 9."""
    return manifest().model_copy(update={"version": str(number) * 64})


class Backbone(ScriptedEngine):
    """Answers with the number of the version whose adapter it is given."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world

    async def render(self, prompt: object, template: str | None) -> Rendered:
        assert template == "{{ messages }}", "the adapter's own template"
        return Rendered(list(prompt.ids) if isinstance(prompt, TokenIds) else [Prompt.GO])

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
        assert lora is not None
        assert lora.name in self.held
        number = int(lora.name.partition("@")[2][0])
        async for delta in self._world.answer(number, rendered, self._world.release_event):
            yield delta


class MergedEngine(ScriptedEngine):
    """Answers with its version's number, or another one when it `lies`."""

    def __init__(self, world: "World", number: int, lies: bool) -> None:
        super().__init__()
        self.number, self.lies, self._world = number, lies, world
        self.users, self.stopped = 0, False
        self.dead = asyncio.Event()

    async def stop(self) -> None:
        assert self.users == 0 or self.dead.is_set() or self._world.closing, "stopped under a request"
        self.stopped, self.healthy = True, False
        self.dead.set()
        await asyncio.sleep(0)
        self._world.running.discard(self)

    async def died(self) -> str:
        await self.dead.wait()
        if self.stopped:
            await asyncio.get_running_loop().create_future()
        return "killed by the test"

    def kill(self) -> None:
        """Its process ends; calls notice at once, `died` a little later."""
        self.healthy = False
        self.dead.set()

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
        assert lora is None
        assert not self.stopped, "a request on an engine that was stopped"
        assert not self.lies or request_id.endswith("-merged"), "a request on an engine that failed the comparison"
        self.users += 1
        self._world.served.add(self.number)
        try:
            if "hang" in self._world.fail:
                self._world.fail.remove("hang")
                await asyncio.get_running_loop().create_future()
            answer = self.number + 1 if self.lies else self.number
            async for delta in self._world.answer(answer, rendered, self._world.release_event, self.dead):
                yield delta
        finally:
            self.users -= 1


class World:
    """The core, and what a test does to it.

    Args:
        folder: of adapters and merged weights.
        count: merged engines at once.
        store: of merged weights.
        backoff: after failures.
        running: requests at once.
        start_seconds: most that an engine may take to start.
        auto: when traffic alone promotes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count: int = 2,
        store: MergedStore | None = None,
        backoff: Backoff = SLOW,
        running: int = 32,
        start_seconds: float = 60.0,
        auto: AutoRules = AutoRules(),  # noqa: B008  # frozen
    ) -> None:
        self.folder, self.outage, self.now = folder, Outage(), 0.0
        self.targets_now: tuple[Target, ...] = (Target(version(1), 1),)
        self.release_event = asyncio.Event()
        self.running: set[MergedEngine] = set()
        self.started: list[int] = []
        self.merging: list[int] = []
        self.merges = self.most_bytes = 0
        self.served: set[int] = set()
        self.deleted = ""  # numbers of versions
        self.closing = self.away = False
        self.fail: list[str] = []  # 'merge', 'start' or 'probe': what fails next
        self.merge_gate, self.start_gate = asyncio.Event(), asyncio.Event()
        self.merge_gate.set()
        self.start_gate.set()
        self.seen: list[Seen] = []
        self.auto = AutoPromotion(auto, lambda: self.now)
        self.budget = MergedBudget(SIZE * count, 9)
        self.engine = Backbone(self)
        self.residency = Residency(self, self.engine, folder / "adapters", disk_budget=10**9, host_budget=10**9)
        self.admission = Admission(replace(ADMISSION, running=running, newcomers=0), self._policy)
        self.policy = TenantPolicy()
        self.router = Router(self, base_digest=BASE, max_lora_rank=16, alias_seconds=0, version_seconds=0)
        weights = Weights(self, self.residency, BASE, store, self.outage)
        self.fast_path = FastPath(
            self,
            weights,
            Prober(self.engine, self.admission, self.residency),
            self.budget,
            folder / "merged",
            backoff,
            clock=lambda: self.now,
            observer=self,
            start_seconds=start_seconds,
            auto=self.auto,
        )
        limits = PromptLimits(1000, 10)
        self.core = Generation(self.router, self.residency, self.engine, limits, self.admission, self, self.fast_path)

    # What the core asks for

    async def _policy(self, tenant: str) -> TenantPolicy:
        return self.policy if tenant else TenantPolicy()

    def see(self, event: Seen) -> None:
        self.seen.append(event)
        self.auto.see(event)

    def targets(
        self, tenant: str, adapter: str, *, alias: str | None = None, version: str | None = None
    ) -> tuple[Target, ...]:
        if version and version[0] in self.deleted:
            raise NotFound(version)
        if version:
            return (Target(manifest().model_copy(update={"version": version}), 1),)
        if self.away:
            raise StoreUnavailable("away")
        if adapter != "task" or not self.targets_now:
            raise NotFound(adapter)
        return self.targets_now

    def fetch(self, manifest: VersionManifest, dest: Path) -> Path:
        dest.mkdir(parents=True, exist_ok=True)
        (dest / "chat_template.jinja").write_text("{{ messages }}")
        return dest

    async def merge(self, adapter: Path, into: Path) -> MergedFiles:
        assert (adapter / "chat_template.jinja").exists(), "its files are held for as long as they are read"
        number = int(adapter.name.partition("@")[2][0])
        assert not self.merging, "one at a time"
        self.merging.append(number)
        self.merges += 1
        try:
            await self.merge_gate.wait()
            if "merge" in self.fail:
                self.fail.remove("merge")
                raise AdapterRefused("cannot be merged")
            write_merged(into, number)
            return MergedFiles(into, 1, 1)
        finally:
            self.merging.remove(number)

    async def start(self, name: str, merged: Path) -> MergedEngine:
        number = int((merged / "number").read_text())
        assert number not in {engine.number for engine in self.running}, "two engines of one version"
        engine = MergedEngine(self, number, lies="probe" in self.fail)
        if engine.lies:
            self.fail.remove("probe")
        self.running.add(engine)
        self.started.append(number)
        try:
            await self.start_gate.wait()
            if "start" in self.fail:
                self.fail.remove("start")
                raise EngineUnavailable("did not start")
        except BaseException:
            self.running.discard(engine)
            raise
        return engine

    def bytes_of(self, merged: MergedFiles) -> int:
        return SIZE

    async def answer(
        self, number: int, rendered: Rendered, release: asyncio.Event, dead: asyncio.Event | None = None
    ) -> AsyncGenerator[Delta, None]:
        """`v<number>` in one piece and an end, with scores."""
        where = Prompt(rendered.token_ids[0])

        async def wait(here: Prompt) -> None:
            if where is here:
                await first(*(event for event in (release, dead) if event))
            if dead and dead.is_set():
                raise EngineUnavailable("died under a request")

        await wait(Prompt.BEFORE)
        yield Delta(f"v{number}", 1, None, TokenScores((number,), (-0.1,), (((number, -0.1),),)))
        await wait(Prompt.AFTER)
        yield Delta("", 1, "stop", TokenScores((0,), (-0.1,), (((0, -0.1),),)))

    # What a test does

    def point(self, *numbers: int, route: Any = "merged") -> None:
        """Moves the alias, evenly split."""
        self.targets_now = tuple(Target(version(number), 1, route) for number in numbers)

    async def busy(self, seconds: float, *models: str) -> None:
        """Lets time go by in which each model is asked for a hundred tokens every ten seconds."""
        for _ in range(round(seconds / 10)):
            for model in models:
                await self.ask(model=model, tokens=98)
            self.now += 10
            self.fast_path.review()
            await turns(3)

    def release(self) -> None:
        """Lets all requests go on that are held now."""
        self.release_event.set()
        self.release_event = asyncio.Event()

    async def ask(self, prompt: Prompt = Prompt.GO, model: str = "task", tokens: int = 1) -> list[Event]:
        """A whole request, with a prompt of so many tokens."""
        ids = TokenIds((int(prompt), *[9] * (tokens - 1)))
        return [event async for event in self.core.run(Call("acme", model, ids))]

    def row(self, number: int) -> MergedRow | None:
        return next((row for row in self.fast_path.rows() if row.version == version(number).version), None)

    async def until(self, number: int, state: State | None) -> None:
        """Waits until a version is in a state; None: forgotten."""
        await eventually(lambda: (row.state if (row := self.row(number)) else None) is state)

    async def close(self) -> None:
        """Ends everything, and looks at what is left."""
        self.closing = True
        self.release()
        await self.fast_path.close()
        await self.residency.close()
        assert not self.running, "an engine is left"
        assert not self.merging, "a merge is left"
        assert not len(self.budget), "room is left taken"
        assert not (self.folder / "merged").exists(), "a folder is left"


def write_merged(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    save_file({"weight": np.zeros(1, np.float32)}, folder / MERGED_WEIGHTS)
    (folder / "number").write_text(str(number))


def told(events: list[Event]) -> tuple[str, str]:
    """Route and text."""
    started = events[0]
    assert isinstance(started, Started)
    return started.route.value, "".join(event.text for event in events if isinstance(event, Text))


async def first(*events: asyncio.Event) -> None:
    """Waits for one of them."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


async def eventually(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # what is looked at tells nobody
            await asyncio.sleep(0.001)


async def turns(count: int) -> None:
    """Lets everybody go on for a bit."""
    for _ in itertools.repeat(None, count):
        await asyncio.sleep(0)
