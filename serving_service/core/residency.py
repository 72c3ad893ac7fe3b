"""Which adapter versions are here, in which tier, who uses them, and what goes when room is needed.

Owns the disk tier and the order of things above it: store -> disk (fetched, verified, renamed) -> engine (host memory and
device slot). The engine decides itself what leaves its own tiers; `AdapterSlots.tier` tells. Does not own what a name
means (routing) or how bytes are checked (the store).

Invariants, each with a test:
- a version is fetched and loaded once, however many requests wait for it;
- what a request uses is never evicted, whatever the budget says;
- files are verified whenever they go into the engine, and replaced from the store when damaged;
- bytes on disk stay within the budget; a failure leaves nothing behind.

Everything here runs on one event loop and changes state between awaits only; reading, hashing and deleting run in threads.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from adapter_store.manifest import VersionManifest
from serving_service.core.errors import CacheFull, InUse, NotResident
from serving_service.core.folders import delete, drop_strays, file_manifest
from serving_service.engine.protocol import AdapterSlots, LoraRef, Tier

log = structlog.get_logger(__name__)

Key = tuple[str, str, str]
"""Tenant, adapter, version."""


class Fetcher(Protocol):
    """The one call of the store that residency needs; sync and thread-safe."""

    def fetch(self, manifest: VersionManifest, dest: Path) -> Path:
        """Makes the folder `dest`, verified; one that is there is kept when sound and replaced when not."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a loaded adapter.

    Attributes:
        lora: what the engine takes.
        manifest: which version it is.
        tier: where it was found.
        load_ms: what making it resident took; 0 when the engine held it.
    """

    lora: LoraRef
    manifest: VersionManifest
    tier: Tier
    load_ms: float


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """One row for operators."""

    tenant: str
    adapter: str
    version: str
    tier: Tier
    disk_bytes: int
    users: int
    uses: int
    last_use: datetime | None
    load_ms: float


@dataclass(slots=True)
class _Entry:
    manifest: VersionManifest
    lora: LoraRef
    users: int = 0
    """Requests that hold or await it."""
    flight: "asyncio.Task[None] | None" = None
    """Bringing it in; counts as a user, for whoever started it may have gone."""
    disk_bytes: int = 0
    """Reserved before fetching; 0 is not on disk."""
    uses: int = 0
    last_use: datetime | None = None
    touched: float = 0.0
    load_ms: float = field(default=0.0)

    @property
    def busy(self) -> bool:
        return self.users > 0 or self.flight is not None


class Residency:
    """Keeps adapters where requests need them.

    Args:
        fetcher: the store's versions.
        slots: the engine's tiers.
        folder: the disk tier; this object deletes what it does not know in there.
        budget_bytes: most bytes of adapters on disk.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        slots: AdapterSlots,
        folder: Path,
        budget_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher, self._slots = fetcher, slots
        self._folder, self._budget, self._clock = folder, budget_bytes, clock
        self._entries: dict[Key, _Entry] = {}
        self._leaving: dict[Key, asyncio.Task[None]] = {}

    async def adopt(self) -> int:
        """Takes over what an earlier run left on disk, as far as its digests hold; deletes the rest.

        Returns:
            How many versions were adopted.
        """
        for manifest, path in await asyncio.to_thread(drop_strays, self._folder):
            entry = self._entry(manifest, path)
            entry.disk_bytes = manifest.size
        while self._disk_bytes() > self._budget:  # the budget may have been lowered
            self._forget(next(iter(self._entries)))
        return len(self._entries)

    @contextlib.asynccontextmanager
    async def lease(self, manifest: VersionManifest) -> AsyncIterator[Lease]:
        """Makes a version usable and keeps it so inside the block.

        Raises:
            CacheFull: no room, and everything there is in use.
            AdapterRefused: the engine would not take it.
            StoreError: it could not be fetched.
        """
        key = _key(manifest)
        entry = self._entries.get(key) or self._entry(manifest, self._path(key))
        entry.users += 1
        try:
            tier = self._tier(entry)
            began = self._clock()
            while entry.flight is not None or self._slots.tier(entry.lora.name) is None:
                if entry.flight is None:
                    entry.flight = asyncio.create_task(self._bring(key, entry))
                    entry.flight.add_done_callback(lambda flight: self._landed(key, entry, flight))
                # Shielded: others may wait for the same flight when this request is cancelled.
                await asyncio.shield(entry.flight)
            load_ms = (self._clock() - began) * 1e3 if tier in (Tier.STORE, Tier.DISK) else 0.0
            entry.uses += 1
            entry.last_use = datetime.now(UTC)
            yield Lease(entry.lora, manifest, tier, load_ms)
        finally:
            entry.users -= 1
            entry.touched = self._clock()
            self._tidy(key, entry)

    async def evict(self, tenant: str, adapter: str, version: str) -> int:
        """Drops a version from the engine and from disk.

        Returns:
            Bytes freed on disk.

        Raises:
            InUse: requests use it or it is being loaded.
            NotResident: it is not here.
        """
        key = (tenant, adapter, version)
        entry = self._entries.get(key)
        if entry is None:
            raise NotResident(f"{tenant}/{adapter}@{version} is not resident here")
        if entry.busy:
            raise InUse(f"{entry.lora.name} is used by {entry.users} requests; evict it when they are done")
        freed = entry.disk_bytes
        await asyncio.shield(self._forget(key))
        return freed

    async def list(self) -> list[ResidentAdapter]:
        """Returns what is here, with the tiers as the engine reports them now."""
        await self._slots.refresh()
        return [
            ResidentAdapter(
                *key, self._tier(entry), entry.disk_bytes, entry.users, entry.uses, entry.last_use, entry.load_ms
            )
            for key, entry in sorted(self._entries.items())
        ]

    async def close(self) -> None:
        """Ends what is in flight; the disk keeps its folders for the next run."""
        tasks = [entry.flight for entry in self._entries.values() if entry.flight] + list(self._leaving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _entry(self, manifest: VersionManifest, path: Path) -> _Entry:
        key = _key(manifest)
        entry = _Entry(manifest, LoraRef(f"{key[0]}/{key[1]}@{key[2]}", path), touched=self._clock())
        self._entries[key] = entry
        return entry

    def _path(self, key: Key) -> Path:
        return self._folder / key[0] / f"{key[1]}@{key[2]}"

    def _tier(self, entry: _Entry) -> Tier:
        if (tier := self._slots.tier(entry.lora.name)) is not None:
            return tier
        return Tier.DISK if entry.disk_bytes and entry.flight is None else Tier.STORE

    def _disk_bytes(self) -> int:
        return sum(entry.disk_bytes for entry in self._entries.values())

    async def _bring(self, key: Key, entry: _Entry) -> None:
        """Store -> disk -> engine, for all who wait."""
        began = self._clock()
        # An eviction of the same version may still be deleting the folder.
        if leaving := self._leaving.get(key):
            await asyncio.shield(leaving)
        was_here = entry.disk_bytes > 0
        if not was_here:
            await self._make_room(entry.manifest)
            entry.disk_bytes = entry.manifest.size
        try:
            # Also when it was here: the store's fetch verifies what it finds and replaces it when damaged, and a
            # damaged file inside the engine's own step would kill the engine.
            await asyncio.to_thread(self._fetch, entry)
        except BaseException:
            entry.disk_bytes = 0
            await asyncio.shield(asyncio.to_thread(delete, entry.lora.path))
            raise
        await self._slots.load(entry.lora)
        entry.load_ms = (self._clock() - began) * 1e3
        log.info("adapter loaded", adapter=entry.lora.name, was_on_disk=was_here, ms=round(entry.load_ms, 1))

    def _fetch(self, entry: _Entry) -> None:
        file_manifest(entry.manifest, self._fetcher.fetch(entry.manifest, entry.lora.path))

    async def _make_room(self, manifest: VersionManifest) -> None:
        if manifest.size > self._budget:
            raise CacheFull(
                f"{manifest.adapter}@{manifest.version} has {manifest.size} bytes, more than the whole cache of "
                f"{self._budget}: raise GRAFT_SERVING_DISK_BUDGET_BYTES"
            )
        while self._disk_bytes() + manifest.size > self._budget:
            idle = [(entry.touched, key) for key, entry in self._entries.items() if entry.disk_bytes and not entry.busy]
            if not idle:
                raise CacheFull(
                    f"no room for {manifest.adapter}@{manifest.version}: all {self._budget} bytes of the cache are in "
                    "use; try again, or raise GRAFT_SERVING_DISK_BUDGET_BYTES"
                )
            self._forget(min(idle)[1])
        # Their bytes are gone only when the folders are; waiting for all keeps the disk within the budget too.
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    def _forget(self, key: Key) -> "asyncio.Task[None]":
        """Takes an idle version off the books at once, and out of the engine and off the disk in the background."""
        entry = self._entries.pop(key)
        task = asyncio.create_task(self._leave(entry))
        self._leaving[key] = task

        def left(done: "asyncio.Task[None]") -> None:
            if self._leaving.get(key) is done:
                del self._leaving[key]
            if not done.cancelled() and (error := done.exception()):
                log.error("eviction failed", adapter=entry.lora.name, cause=repr(error))

        task.add_done_callback(left)
        return task

    async def _leave(self, entry: _Entry) -> None:
        try:
            await self._slots.unload(entry.lora.name)
        finally:
            await asyncio.to_thread(delete, entry.lora.path)
        log.info("adapter evicted", adapter=entry.lora.name, bytes=entry.disk_bytes)

    def _landed(self, key: Key, entry: _Entry, flight: "asyncio.Task[None]") -> None:
        entry.flight = None
        if not flight.cancelled():
            flight.exception()  # those who wait got it; this keeps asyncio from reporting it when nobody does
        self._tidy(key, entry)

    def _tidy(self, key: Key, entry: _Entry) -> None:
        """A failed load is not residency: without this, unknown or broken versions would pile up as empty rows."""
        if not entry.busy and not entry.disk_bytes and self._entries.get(key) is entry:
            del self._entries[key]


def _key(manifest: VersionManifest) -> Key:
    return manifest.tenant, manifest.adapter, manifest.version
