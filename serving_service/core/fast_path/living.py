"""The life of one merged version: wanted, merging, starting, probing, serving, draining, gone; again and again while it is wanted.

Owns the order of one life and what it gives back on the way. One task lives it, so there is never a second engine of a version
nor two transitions at once. Does not own who wants it (`fast_path`), nor who goes when room is needed (`room`).
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from graftwork.errors import GraftError
from serving_service.core.errors import MergedSlow, NoRoomForMerged
from serving_service.core.fast_path.life import Life, State
from serving_service.core.fast_path.probe import Agreement, Prober
from serving_service.core.fast_path.room import MergedRoom
from serving_service.core.fast_path.weights import Weights, in_thread
from serving_service.core.folders import delete
from serving_service.core.observing import CutOver, MergedFailed, MergedWeights, Observer
from serving_service.engine.merged_protocol import MergedEngines
from serving_service.engine.protocol import Engine, EngineUnavailable

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds until a version that failed is tried again: twice as long each time, for a merge takes whole cores.

    Attributes:
        first: after the first failure.
        most: after many.
        proven: an engine that served for so long has not failed before, as far as this is concerned.
        room: how long to wait for room, if none is given back before.
    """

    first: float = 5.0
    most: float = 3600.0
    proven: float = 600.0
    room: float = 30.0

    def after(self, failures: int) -> float:
        """Seconds after so many failures, 1 at least."""
        return min(self.first * 2.0 ** min(failures - 1, 30), self.most)


class Living:
    """Lives.

    Args:
        engines: makes engines.
        weights: what they start from.
        prober: compares them with the swapped path.
        room: for them.
        folder: for merged weights, while they are in use.
        backoff: after failures.
        clock: seconds, monotonic.
        observer: is told what happens.
        start_seconds: most that an engine's start may take, and most that its answers to the comparison may.
        turned: called after each change of a state.

    Attributes:
        closing: the service stops: nothing begins any more, and draining does not wait.
    """

    def __init__(
        self,
        engines: MergedEngines,
        weights: Weights,
        prober: Prober,
        room: MergedRoom,
        folder: Path,
        backoff: Backoff,
        clock: Callable[[], float],
        observer: Observer,
        start_seconds: float,
        turned: Callable[[], None],
    ) -> None:
        self._engines, self._weights, self._prober, self._room = engines, weights, prober, room
        self._folder, self._backoff, self._clock = folder, backoff, clock
        self._observer, self._start_seconds, self._turned = observer, start_seconds, turned
        self._builder = asyncio.Lock()
        self.closing = asyncio.Event()

    async def live(self, life: Life) -> None:
        """Lives for as long as the version is wanted; never raises."""
        while life.wanted and not self.closing.is_set():
            life.leave.clear()
            life.poke.clear()
            self._turn(life, State.WANTED)
            try:
                await self._once(life)
            except NoRoomForMerged as error:
                life.no_room, life.why = True, str(error)
                life.retry_at = self._clock() + self._backoff.room
            except Exception as error:
                self._failed(life, error)
            if life.wanted and not self.closing.is_set():
                await self._rest(life)
        self._turn(life, State.GONE)

    def _failed(self, life: Life, error: Exception) -> None:
        life.failures += 1
        life.why = str(error) if isinstance(error, GraftError | OSError) else f"unexpected: {type(error).__name__}"
        life.retry_at = self._clock() + self._backoff.after(life.failures)
        self._observer.see(MergedFailed(life.state.value, type(error).__name__))
        unknown = not isinstance(error, GraftError | OSError)
        log.warning(
            "no merged engine", adapter=life.name, state=life.state.value, failures=life.failures, cause=life.why,
            exc_info=error if unknown else None,
        )  # fmt: skip

    async def _rest(self, life: Life) -> None:
        life.poke.clear()
        life.turn(State.WANTED)  # also when it is in it: who waits for the outcome is to be told
        self._turned()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, life.retry_at - self._clock())):
                await life.poke.wait()
        life.no_room = False

    async def _once(self, life: Life) -> None:
        """From wanted to serving to draining; all that it took is given back at the end, the engine first."""
        async with contextlib.AsyncExitStack() as held:
            engine = await _unless(life.leave, self._build(life, held))
            if engine is not None:
                await self._serve(life, engine)

    async def _build(self, life: Life, held: contextlib.AsyncExitStack) -> Engine:
        async with self._builder:  # merging takes whole cores: one at a time
            self._room.check(life)
            began = self._clock()
            self._turn(life, State.MERGING)
            folder = self._folder / life.key[0] / f"{life.key[1]}@{life.key[2]}"
            held.push_async_callback(in_thread, delete, folder)
            brought = await self._weights.bring(life.manifest, folder, from_store=not life.distrusted)
            self._observer.see(MergedWeights(self._clock() - began, brought.from_store))
        life.bytes, life.template = self._engines.bytes_of(brought.files), brought.template
        # Not with the builder in hand: who drains for it may take as long as its longest answer.
        await self._room.take(life)
        held.callback(self._room.give_back, life)
        async with self._builder:
            self._turn(life, State.STARTING)
            engine = await self._within("start", self._engines.start(life.name, brought.files.folder))
            held.push_async_callback(engine.stop)
            self._turn(life, State.PROBING)
            life.distrusted = brought.from_store  # until the comparison has ended well
            await self._probe(life, engine)
            life.distrusted = False
        if not brought.from_store:
            publishing = asyncio.create_task(
                self._weights.publish(life.manifest, folder, instead=brought.instead), name="publish merged"
            )
            held.push_async_callback(_end, publishing)
        life.build_seconds = self._clock() - began
        return engine

    async def _within(self, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        """Does the work; raises MergedSlow, once it has ended, when it takes too long: others wait for the builder."""
        limit = asyncio.timeout(self._start_seconds)
        try:
            async with limit:
                return await work
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise MergedSlow(
                f"the merged engine did not {what} within {self._start_seconds:g} s; if this machine needs longer, raise "
                "GRAFT_SERVING_MERGED_START_SECONDS"
            ) from error

    async def _probe(self, life: Life, engine: Engine) -> None:
        death = asyncio.create_task(engine.died())
        try:
            found = await _unless_done(death, self._compared(life, engine))
            if found is None:
                raise EngineUnavailable(f"the merged engine died while it was compared: {death.result()}")
        finally:
            await _end(death)
        log.info(
            "merged engine answers as the swapped path", adapter=life.name, tokens=found.tokens, parted=found.parted,
            mean_nats=round(found.mean_nats, 4),
        )  # fmt: skip

    async def _compared(self, life: Life, engine: Engine) -> Agreement:
        expected = await self._prober.swapped(life.manifest)  # takes its turn among requests: not limited here
        return await self._within("answer the comparison", self._prober.compare(life.manifest, expected, engine))

    async def _serve(self, life: Life, engine: Engine) -> None:
        life.engine, life.why, since = engine, "", self._clock()
        self._turn(life, State.SERVING)
        self._observer.see(CutOver(life.build_seconds))
        log.info("requests go to a merged engine", adapter=life.name, bytes=life.bytes, seconds=life.build_seconds)
        death = asyncio.create_task(engine.died())
        try:
            await _first(death, life.leave)
            life.engine = None  # nobody gets it from here on
            self._turn(life, State.DRAINING)
            while life.users and not death.done() and not self.closing.is_set():
                await _first(death, life.idle, self.closing)
            if death.done():
                if self._clock() - since >= self._backoff.proven:
                    life.failures = 0
                raise EngineUnavailable(f"the merged engine died: {death.result()}")
        finally:
            life.engine = None
            await _end(death)

    def _turn(self, life: Life, state: State) -> None:
        if life.state is not state:
            life.turn(state)
            self._turned()


async def _first(task: "asyncio.Task[Any]", *events: asyncio.Event) -> None:
    """Waits for a task's end or one of the events."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait([task, *waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Does the work; when the event comes first, cancels it, waits until it has ended, and returns None."""
    came = asyncio.create_task(event.wait())
    try:
        return await _unless_done(came, work)
    finally:
        came.cancel()


async def _unless_done(other: "asyncio.Task[Any]", work: Coroutine[Any, Any, _T]) -> _T | None:
    """The same with a task in place of the event."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, other}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})
