"""Moving adapter versions between the tiers: what each step takes, and what must leave for it.

Owns the moves, the two budgets and the threads that read and hash. Does not own who uses a version, nor when it is moved
(`residency`). A version in host memory is on disk too.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from adapter_store.manifest import VersionManifest
from adapter_store.outage import Outage
from graftwork.quiet_threads import step_back
from serving_service.core.adapter_entry import Entry, Key, LoadTimes
from serving_service.core.errors import CacheFull
from serving_service.core.folders import TEMPLATE_FILE, delete, file_manifest
from serving_service.core.observing import NOBODY_WATCHES, Evicted, Loaded, Observer
from serving_service.core.refusals import Refusals
from serving_service.core.room import Room
from serving_service.engine.protocol import AdapterSlots, Tier

log = structlog.get_logger(__name__)

_READERS = 4  # adapters fetched and verified at once; each uses several connections of its own
_RETRY_S = 1.0  # after which some request may have ended that holds what is in the way
_NICE = 5  # of those threads, and of the store's connections that they start: on a CPU they would take the cores from decoding
_T = TypeVar("_T")


def assumed_fetch_ms(size: int) -> float:
    """What fetching costs where nothing was measured: a few round trips, and 100 MB/s."""
    return 20.0 + size / 1e5


class Fetcher(Protocol):
    """The one call of the store that residency needs; sync and thread-safe."""

    def fetch(self, manifest: VersionManifest, dest: Path) -> Path:
        """Makes the folder `dest`, verified; one that is there is kept when sound and replaced when not."""
        ...


class Tiers:
    """The tiers above the store.

    Args:
        fetcher: the store's versions.
        slots: the engine's tiers.
        disk_budget: most bytes of adapters on disk.
        host_budget: most bytes of adapters in the engine's host memory.
        clock: seconds, monotonic.
        outage: what is known of the store; shared with others that ask it.
        observer: is told of each move.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        slots: AdapterSlots,
        disk_budget: int,
        host_budget: int,
        clock: Callable[[], float] = time.monotonic,
        outage: Outage | None = None,
        observer: Observer = NOBODY_WATCHES,
    ) -> None:
        self._fetcher, self._slots, self._clock, self._observer = fetcher, slots, clock, observer
        slots.watch_slots(lambda ms: observer.see(Loaded(Tier.DEVICE, ms / 1e3, 0)))
        self._outage = outage or Outage(clock)
        self.disk, self.host = Room(disk_budget), Room(host_budget)
        self.entries: dict[Key, Entry] = {}
        self.refusals = Refusals(clock)
        self._leaving: dict[Key, asyncio.Task[None]] = {}
        self._readers = ThreadPoolExecutor(
            _READERS, thread_name_prefix="residency", initializer=step_back, initargs=(_NICE,)
        )

    def move(self, entry: Entry, step: Callable[[Entry], Awaitable[None]]) -> "asyncio.Task[None]":
        """Starts a move of an entry that has none."""
        entry.move = asyncio.create_task(self._move(entry, step))
        entry.move.add_done_callback(_seen)
        return entry.move

    async def to_disk(self, entry: Entry) -> None:
        """Store to disk; also when it was there: the store's fetch verifies what it finds and replaces it when damaged, and
        a damaged file inside the engine's own step would kill the engine."""
        # An eviction of the same version may still be deleting the folder.
        if leaving := self._leaving.get(entry.key):
            await asyncio.shield(leaving)
        was_here = entry.key in self.disk
        if not was_here:
            await self._make_disk_room(entry)
            self.disk.put(entry.key, entry.manifest.size, assumed_fetch_ms(entry.manifest.size))
        began = self._clock()
        try:
            # What is on disk needs no store; what is not would wait for its retries, seconds, while it is known to be away.
            known = contextlib.nullcontext() if was_here else self._outage.question()
            async with self._slots.loading(entry.manifest.size):
                with known:
                    entry.template = await self.in_thread(self._fetch, entry)
        except BaseException:
            self.disk.drop(entry.key)
            entry.on_disk = False
            await asyncio.shield(self.in_thread(delete, entry.lora.path))
            raise
        entry.on_disk = True
        ms = (self._clock() - began) * 1e3
        if not was_here:
            entry.loads = LoadTimes(ms, entry.loads.host_ms)
            self.disk.put(entry.key, entry.manifest.size, ms)
            self._observer.see(Loaded(Tier.DISK, ms / 1e3, entry.manifest.size))

    async def to_host(self, entry: Entry) -> None:
        """Store or disk to the engine's host memory."""
        async with self._slots.loading(entry.manifest.size):
            await self._to_host(entry)

    async def _to_host(self, entry: Entry) -> None:
        self.host.drop(entry.key)  # an engine that lost it took its room too
        began = self._clock()
        await self.to_disk(entry)
        fetched = self._clock()
        # Until the engine has told its size: weights as they are stored.
        await self._make_host_room(entry)
        self.host.put(entry.key, entry.manifest.size)
        try:
            size = await self._slots.load(entry.lora)
        except BaseException:
            self.host.drop(entry.key)
            raise
        ms = (self._clock() - fetched) * 1e3
        entry.loads = LoadTimes(entry.loads.disk_ms, ms)
        self.host.put(entry.key, size, max((self._clock() - began) * 1e3, ms))
        self._observer.see(Loaded(Tier.HOST, ms / 1e3, size))
        log.info("adapter loaded", adapter=entry.lora.name, bytes=size, ms=round((self._clock() - began) * 1e3, 1))

    async def from_host(self, entry: Entry) -> None:
        """Frees host memory and slot; the folder stays."""
        await self._slots.unload(entry.lora.name)
        self._observer.see(Evicted(Tier.HOST, self.host.drop(entry.key)))
        log.info("adapter left memory", adapter=entry.lora.name)

    def forget(self, key: Key) -> "asyncio.Task[None]":
        """Takes an idle version off the books at once, and out of the engine and off the disk in the background."""
        entry = self.entries.pop(key)
        self.disk.drop(key)
        task = asyncio.create_task(self._leave(entry, self.host.drop(key)))
        self._leaving[key] = task

        def left(done: "asyncio.Task[None]") -> None:
            if self._leaving.get(key) is done:
                del self._leaving[key]
            if not done.cancelled() and (error := done.exception()):
                log.error("eviction failed", adapter=entry.lora.name, cause=repr(error))

        task.add_done_callback(left)
        return task

    def tidy(self, entry: Entry) -> None:
        """A failed load is not residency: without this, unknown or broken versions would pile up as empty rows."""
        if not entry.busy and entry.key not in self.disk and self.entries.get(entry.key) is entry:
            del self.entries[entry.key]

    async def in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        """Runs a blocking call in the readers' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, call, *args)

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = [entry.move for entry in self.entries.values() if entry.move] + [*self._leaving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _move(self, entry: Entry, step: Callable[[Entry], Awaitable[None]]) -> None:
        # Cleared in here and not by a callback of the task: who meets a task that is done, but whose callbacks have not run
        # yet, would await it without ever giving the loop back, and so for ever.
        try:
            await step(entry)
        except Exception as error:
            self.refusals.remember(entry.key, error)
            raise
        finally:
            entry.move = None
            self.tidy(entry)

    def _fetch(self, entry: Entry) -> str:
        folder = self._fetcher.fetch(entry.manifest, entry.lora.path)
        file_manifest(entry.manifest, folder)
        return (folder / TEMPLATE_FILE).read_text()

    async def _make_disk_room(self, entry: Entry) -> None:
        for key in self._victims(self.disk, entry, "disk", "GRAFT_SERVING_DISK_BUDGET_BYTES"):
            self.forget(key)
        # Their bytes are gone only when the folders are; waiting for all keeps the disk within the budget too.
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    async def _make_host_room(self, entry: Entry) -> None:
        leaving = [
            self.move(self.entries[key], self.from_host)
            for key in self._victims(self.host, entry, "host memory", "GRAFT_SERVING_HOST_BUDGET_BYTES")
        ]
        await asyncio.gather(*leaving)

    def _victims(self, room: Room, entry: Entry, tier: str, setting: str) -> list[Key]:
        size = entry.manifest.size
        if size > room.budget:
            raise CacheFull(
                f"{entry.lora.name} has {size} bytes, more than the whole {tier} budget of {room.budget}: raise {setting}"
            )
        victims = room.victims(size, lambda key: self.entries[key].may_go)
        if victims is None:
            full = CacheFull(
                f"no room for {entry.lora.name}: all {room.budget} bytes of {tier} are in use or pinned; try again, or "
                f"raise {setting}"
            )
            full.retry_after_seconds = _RETRY_S
            raise full
        return victims

    async def _leave(self, entry: Entry, in_host: int) -> None:
        try:
            await self._slots.unload(entry.lora.name)
        finally:  # what an engine that died had is gone as well
            if in_host:
                self._observer.see(Evicted(Tier.HOST, in_host))
            await self.in_thread(delete, entry.lora.path)
            self._observer.see(Evicted(Tier.DISK, entry.manifest.size))
        log.info("adapter evicted", adapter=entry.lora.name, bytes=entry.manifest.size)


def _seen(task: "asyncio.Task[None]") -> None:
    """Those who wait got the error; this keeps asyncio from reporting it when nobody does."""
    if not task.cancelled():
        task.exception()
