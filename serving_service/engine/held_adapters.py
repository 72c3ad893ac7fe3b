"""Adapters inside a running engine: staged beside its loop, taken by it, in a slot or not, used by requests, given back.

Owns what vLLM calls each of them and where they are. Does not own which are loaded or evicted (`core.residency`), nor what the
engine's process does with them (`vllm_plugin.staging`, `vllm_plugin.slot_filling`).

Facts of vLLM 0.32 that shape this file: LoRA requests compare by name only and ids are not checked, so ids come from one
counter and are never used again; an adapter that fails to load inside a step kills the engine, so adapters are staged and
taken before any request names them.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from serving_service.engine.protocol import AdapterRefused, EngineUnavailable, LoraRef, Tier
from serving_service.engine.staging_client import StagingClient

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

PATIENT_BYTES = 8 << 20
"""A load this large waits for the step under way, which computes with all cores: the two would slow each other by more."""
PATIENT_S = 0.5
log = structlog.get_logger(__name__)


class Loop(Protocol):
    """What this needs of the engine."""

    @property
    def healthy(self) -> bool:
        """Whether it runs."""

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""

    def call(self, method: str, *args: object) -> Awaitable[list[Any]]:
        """Calls a method of every worker, between two steps. Raises EngineUnavailable when the engine does not run."""

    @property
    def answers(self) -> "asyncio.Task[None] | None":
        """What reads the engine's answers; it ends when the engine dies, and calls under way are not told."""


class HeldAdapters:
    """The adapters of one engine.

    Args:
        loop: of the engine.
        staging: to its workers.
        beside: slots are filled beside the steps (see `vllm_plugin.slot_filling`), and requests wait until their adapter's is full.
        told: is told the milliseconds of each adapter's way into a slot.
    """

    def __init__(
        self, loop: Loop, staging: StagingClient, *, beside: bool, told: Callable[[float], None] = lambda _: None
    ) -> None:
        self._loop, self._staging, self._beside = loop, staging, beside
        self._ids = itertools.count(1)
        self._requests: dict[str, LoRARequest] = {}
        self._host: set[int] = set()
        self._device: dict[int, int] = {}
        self._slots = 0
        self._taking: dict[int, asyncio.Task[None]] = {}  # staged; the loop has been told to take them
        self._bringing: dict[int, asyncio.Task[None]] = {}  # into slots
        self._unfilled = set[int]()
        """Have a slot that could not be filled: a step that found one so would fill it itself, and the engine die of what fails there."""
        self._busy: Counter[int] = Counter()  # requests per adapter: what no load may push out of its slot
        self._loading = 0
        self._device_ms: dict[int, float] = {}
        self._told = told

    async def close(self) -> None:
        """Ends the connections to the workers, and what waits for an engine that may have died."""
        tasks = [*self._taking.values(), *self._bringing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._staging.close()

    def request(self, lora: LoraRef) -> "LoRARequest":
        """Returns what vLLM calls a loaded adapter. Raises EngineUnavailable for one that the loop could not take."""
        if (request := self._requests.get(lora.name)) is None:
            raise EngineUnavailable(f"the engine has lost {lora.name}; try again, it will be loaded anew")
        return request

    def tier(self, name: str) -> Tier | None:
        """Where an adapter is; None: not in this engine."""
        if (request := self._requests.get(name)) is None or request.lora_int_id not in self._host:
            return None
        return Tier.DEVICE if request.lora_int_id in self._device else Tier.HOST

    def slot(self, name: str) -> int | None:
        """Which slot an adapter is in."""
        return self._device.get(request.lora_int_id) if (request := self._requests.get(name)) else None

    def device_ms(self, name: str) -> float:
        """Milliseconds of an adapter's last way into a slot; 0 where there was none."""
        return self._device_ms.get(request.lora_int_id, 0.0) if (request := self._requests.get(name)) else 0.0

    @contextlib.contextmanager
    def used(self, request: "LoRARequest") -> Iterator[None]:
        """Covers a request's time in the engine: no load pushes its adapter out of a slot meanwhile."""
        self._busy[request.lora_int_id] += 1
        try:
            yield
        finally:
            self._busy[request.lora_int_id] -= 1
            self._busy += Counter()  # drops what is at zero

    async def saw(self, request: "LoRARequest") -> None:
        """A step has computed with the adapter: if it had no slot, it has one now, and something else may have none any more."""
        if request.lora_int_id not in self._device:
            await self.refresh()

    async def refresh(self) -> None:
        """Asks the loop what it holds."""
        await self._hold("graft_held_loras")

    async def _hold(self, method: str, *args: object) -> None:
        """Calls the extension's `method`, which answers with what is held; all workers hold the same."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            host, slots, written = (await self._loop.call(method, *args))[0]
        except EngineDeadError as error:
            raise EngineUnavailable("the engine has died; try again in a few seconds") from error
        # An answer that is older than a take does not know of it.
        self._slots, self._host = len(slots), {*host, *self._taking}
        self._device = {held: slot for slot, held in enumerate(slots) if held is not None}
        for lora_id, ms in written:
            self._wrote(lora_id, ms)

    def _wrote(self, lora_id: int, ms: float) -> None:
        if lora_id in self._host:
            self._device_ms[lora_id] = ms
        self._told(ms)

    async def load(self, lora: LoraRef) -> int:
        """Stages an adapter and has the loop take it; see `Engine.load`."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest(lora.name, next(self._ids), str(lora.path))
        try:
            size = await self._staging.stage(request.lora_int_id, lora)
        except AdapterRefused as error:
            log.warning("adapter refused", adapter=lora.name, cause=str(error))
            raise AdapterRefused(
                f"the engine cannot use {lora.name}: {str(error)[:300]}; train it again for this fleet"
            ) from error
        except asyncio.CancelledError:
            self._staging.drop(request.lora_int_id)
            raise
        self._requests[lora.name] = request
        self._host.add(request.lora_int_id)
        # On a CPU its answer is not awaited: that comes a step later, and the request that waits for this would miss that step.
        # What is sent to EngineCore is done in order.
        task = asyncio.create_task(self._take(lora.name, request.lora_int_id), name="take")
        self._taking[request.lora_int_id] = task
        await asyncio.sleep(0)  # the task's first turn, which sends; a caller's own call could come before it otherwise
        if self._beside:
            await self._done_or_dead(task)
            if self._requests.get(lora.name) is not request or not self._loop.healthy:
                raise EngineUnavailable(f"the engine could not take {lora.name}; try again in a few seconds")
        return size

    async def bring(self, request: "LoRARequest") -> None:
        """Returns when a request can be sent whose step finds its adapter in a slot, if one is free or idle.

        Raises:
            EngineUnavailable: it could not be brought there, or the engine has died.
        """
        name, lora_id = request.lora_name, request.lora_int_id
        if not self._beside:
            return
        if (taking := self._taking.get(lora_id)) is not None:
            await self._done_or_dead(taking)
        if self._requests.get(name) is not request:
            raise EngineUnavailable(f"the engine has lost {name}; try again, it will be loaded anew")
        if lora_id in self._device and lora_id not in self._bringing and lora_id not in self._unfilled:
            return
        if (task := self._bringing.get(lora_id)) is None:
            if (
                lora_id not in self._device
                and len(self._device) == self._slots
                and self._device.keys() <= self._busy.keys()
            ):
                return  # all slots are in use: its step gets one when its turn comes
            task = asyncio.create_task(self._bring(name, lora_id), name="bring")
            task.add_done_callback(lambda done: self._brought(lora_id, done))
            self._bringing[lora_id] = task
        await self._done_or_dead(task)
        if not task.done() or not self._loop.healthy:
            raise EngineUnavailable("the engine has died; try again in a few seconds")
        task.result()

    async def _bring(self, name: str, lora_id: int) -> None:
        began = time.perf_counter()
        try:
            await self._hold("graft_give", lora_id, list(self._busy))
            if lora_id in self._device:
                self._unfilled.add(lora_id)
                await self._filled(lora_id, began)
                self._unfilled.discard(lora_id)
        except Exception as error:
            log.error("an adapter was not brought into a slot", adapter=name, cause=repr(error))
            raise EngineUnavailable(
                f"the engine could not bring {name} into a slot; try again in a few seconds"
            ) from error

    async def _filled(self, lora_id: int, began: float) -> None:
        if await self._staging.fill(lora_id):
            self._wrote(lora_id, (time.perf_counter() - began) * 1e3)

    def _brought(self, lora_id: int, task: "asyncio.Task[None]") -> None:
        del self._bringing[lora_id]
        if not task.cancelled():
            task.exception()  # seen, though whoever asked may have left

    async def _done_or_dead(self, task: "asyncio.Task[None]") -> None:
        """Waits for a task or the engine's end: what waits for EngineCore is not told that it died."""
        died = self._loop.answers
        await asyncio.wait([task, *([died] if died else [])], return_when=asyncio.FIRST_COMPLETED)

    @contextlib.asynccontextmanager
    async def loading(self, size: int) -> AsyncIterator[None]:
        """Covers the reading, checking and packing of so many bytes; see `Engine.loading`."""
        self._loading += 1
        try:
            if self._loading == 1:
                self._staging.leave_cores(1)
                if size >= PATIENT_BYTES:
                    await self._staging.left(PATIENT_S)
            yield
        finally:
            self._loading -= 1
            if not self._loading:
                self._staging.leave_cores(0)

    async def _take(self, name: str, lora_id: int) -> None:
        """Has the loop take a staged adapter; one that it could not take is not held."""
        began = time.perf_counter()
        try:
            await self._hold("graft_take", lora_id, list(self._busy))
            if self._beside and lora_id in self._device:
                await self._filled(lora_id, began)
        except Exception as error:
            if not self._loop.stopping:
                log.error("a staged adapter was not taken", adapter=name, cause=repr(error))
            if (request := self._requests.get(name)) and request.lora_int_id == lora_id:
                del self._requests[name]
            await self._give_back(name, lora_id)
            self._host.discard(lora_id)  # last: an answer of the loop's counts what is being taken as held
        finally:
            del self._taking[lora_id]

    async def _give_back(self, name: str, lora_id: int) -> None:
        """Drops what the loop has of an adapter that it could not take, a part of a slot perhaps."""
        if self._loop.healthy:
            try:
                await self._hold("graft_drop", lora_id)
            except Exception as error:
                log.error("what was taken of an adapter was not dropped", adapter=name, cause=repr(error))

    async def unload(self, name: str) -> None:
        """Frees an adapter's slot and its host memory."""
        request = self._requests.pop(name, None)
        if request is not None and (taking := self._taking.get(request.lora_int_id)):
            await asyncio.wait([taking])  # else what is on its way would be counted as held again
        if request is not None:
            self._unfilled.discard(request.lora_int_id)
        if request is not None and self._loop.healthy:
            await self._hold("graft_drop", request.lora_int_id)
            self._device_ms.pop(request.lora_int_id, None)  # last: an older answer may still have told of it
