"""Which adapter versions are here, in which tier, who uses them, and what goes when room is needed.

Owns who uses what and when a version is moved: store -> disk (fetched, verified, renamed) -> host memory (read, packed) ->
device slot. The slots are the engine's; `AdapterSlots.tier` tells. Does not own what a name means (routing), how bytes are
checked (the store), the moves (`tiers`) or who is worth keeping (`room`).

Invariants, each with a test:
- a version is fetched and loaded once, however many requests wait for it;
- what a request uses is never evicted, whatever the budgets say; what is pinned goes only when an operator says so;
- files are verified whenever they go into the engine, and replaced from the store when damaged;
- bytes on disk stay within their budget; those in memory too, but for what the engine makes of them beyond their size;
- a failure leaves nothing behind but its memory for a few seconds, so that asking again at once costs nothing.

Everything here runs on one event loop and changes state between awaits only; reading, hashing and deleting run in threads.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from adapter_store.manifest import VersionManifest
from adapter_store.outage import Outage
from serving_service.core.adapter_entry import (
    NOT_HERE,
    Census,
    Entry,
    Key,
    Lease,
    ResidentAdapter,
    Standing,
    key_of,
)
from serving_service.core.errors import InUse, NotResident
from serving_service.core.folders import drop_strays
from serving_service.core.observing import NOBODY_WATCHES, Observer
from serving_service.core.tiers import Fetcher, Tiers, assumed_fetch_ms
from serving_service.engine.protocol import AdapterSlots, LoraRef, Tier


class Residency:
    """Keeps adapters where requests need them.

    Args:
        fetcher: the store's versions.
        slots: the engine's tiers.
        folder: the disk tier; this object deletes what it does not know in there.
        disk_budget: most bytes of adapters on disk.
        host_budget: most bytes of adapters in the engine's host memory.
        clock: seconds, monotonic.
        outage: what is known of the store; shared with others that ask it.
        observer: is told of loads and evictions.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        slots: AdapterSlots,
        folder: Path,
        *,
        disk_budget: int,
        host_budget: int,
        clock: Callable[[], float] = time.monotonic,
        outage: Outage | None = None,
        observer: Observer = NOBODY_WATCHES,
    ) -> None:
        self._slots, self._folder, self._clock = slots, folder, clock
        self._tiers = Tiers(fetcher, slots, disk_budget, host_budget, clock, outage, observer)
        self._entries = self._tiers.entries

    async def adopt(self) -> int:
        """Takes over what an earlier run left on disk, as far as its digests hold; deletes the rest.

        Returns:
            How many versions were adopted.
        """
        for manifest, path in await self._tiers.in_thread(drop_strays, self._folder):
            entry = self._entry(manifest, path)
            entry.on_disk = True
            self._tiers.disk.put(entry.key, manifest.size, assumed_fetch_ms(manifest.size))
        for key in self._tiers.disk.victims(0, lambda _: True) or []:  # the budget may have been lowered
            self._tiers.forget(key)
        return len(self._entries)

    @contextlib.asynccontextmanager
    async def lease(self, manifest: VersionManifest) -> AsyncIterator[Lease]:
        """Makes a version usable and keeps it so inside the block.

        Raises:
            CacheFull: no room, and everything there is in use.
            AdapterRefused: the engine would not take it.
            StoreError: it could not be fetched.
        """
        async with self._user(manifest) as entry:
            tier = self._tier(entry)
            began = self._clock()
            await self._until_in_engine(entry)
            load_ms = (self._clock() - began) * 1e3 if tier in (Tier.STORE, Tier.DISK) else 0.0
            entry.uses += 1
            entry.last_use = datetime.now(UTC)
            self._tiers.disk.touch(entry.key)
            self._tiers.host.touch(entry.key)
            yield Lease(entry.lora, manifest, tier, load_ms, entry.template or "")

    @contextlib.asynccontextmanager
    async def on_disk(self, manifest: VersionManifest) -> AsyncIterator[Lease]:
        """Brings a version's files to disk and keeps them there inside the block, for readers other than the engine.

        Raises:
            CacheFull: no room, and everything there is in use. StoreError: it could not be fetched.
        """
        async with self._user(manifest) as entry:
            tier = self._tier(entry)
            if tier in (Tier.STORE, Tier.DISK):  # what the engine holds was verified when it went in
                await self._moved(entry, self._tiers.to_disk)
            while not entry.on_disk or entry.template is None:
                await self._moved(entry, self._tiers.to_disk)
            yield Lease(entry.lora, manifest, tier, 0.0, entry.template)

    async def prefetch(self, manifest: VersionManifest, *, to: Tier, pin: bool = False) -> ResidentAdapter:
        """Brings a version in before anybody asks for it.

        Args:
            manifest: which.
            to: DISK or HOST; a slot of the device is given when a request needs it.
            pin: keep it there until it is unpinned or evicted, or this process ends.

        Raises:
            As `lease`.
        """
        async with self._user(manifest) as entry:
            if to is Tier.DISK:
                while not entry.on_disk:
                    await self._moved(entry, self._tiers.to_disk)
            else:
                await self._until_in_engine(entry)
            entry.pinned = entry.pinned or pin
            return self._row(entry)

    def unpin(self, tenant: str, adapter: str, version: str) -> ResidentAdapter:
        """Lets a version be evicted again; raises NotResident when it is not here."""
        entry = self._known((tenant, adapter, version))
        entry.pinned = False
        return self._row(entry)

    async def evict(self, tenant: str, adapter: str, version: str) -> int:
        """Drops a version from the engine and from disk, pinned or not.

        Returns:
            Bytes freed on disk.

        Raises:
            InUse: requests use it or it is being loaded.
            NotResident: it is not here.
        """
        entry = self._known((tenant, adapter, version))
        if entry.busy:
            raise InUse(f"{entry.lora.name} is used by {entry.users} requests; evict it when they are done")
        freed = self._tiers.disk.size(entry.key)
        await asyncio.shield(self._tiers.forget(entry.key))
        return freed

    async def list(self) -> list[ResidentAdapter]:
        """Returns what is here, with the tiers as the engine reports them now."""
        await self._slots.refresh()
        return [self._row(entry) for _, entry in sorted(self._entries.items(), key=lambda pair: pair[0])]

    def standing(self, key: Key) -> Standing:
        """Where a version is now, and whether it is pinned; from memory."""
        entry = self._entries.get(key)
        return Standing(self._tier(entry), entry.pinned) if entry else NOT_HERE

    def census(self) -> Census:
        """Counts what is here; from memory, without asking the engine."""
        adapters = dict.fromkeys(Tier, 0)
        for entry in self._entries.values():
            adapters[self._tier(entry)] += 1
        return Census(adapters, {Tier.DISK: self._tiers.disk.used, Tier.HOST: self._tiers.host.used})

    async def close(self) -> None:
        """Ends what is under way; the disk keeps its folders for the next run."""
        await self._tiers.close()

    @contextlib.asynccontextmanager
    async def _user(self, manifest: VersionManifest) -> AsyncIterator[Entry]:
        key = key_of(manifest)
        self._tiers.refusals.check(key)
        entry = self._entries.get(key) or self._entry(manifest, self._folder / key[0] / f"{key[1]}@{key[2]}")
        entry.users += 1
        try:
            yield entry
        finally:
            entry.users -= 1
            self._tiers.tidy(entry)

    async def _until_in_engine(self, entry: Entry) -> None:
        while entry.move is not None or self._slots.tier(entry.lora.name) is None:
            await self._moved(entry, self._tiers.to_host)

    async def _moved(self, entry: Entry, step: Callable[[Entry], Awaitable[None]]) -> None:
        """Waits for the move that is under way, else for this one."""
        # Shielded: others may wait for the same move when this request is cancelled.
        await asyncio.shield(entry.move or self._tiers.move(entry, step))

    def _entry(self, manifest: VersionManifest, path: Path) -> Entry:
        key = key_of(manifest)
        self._entries[key] = entry = Entry(key, manifest, LoraRef(f"{key[0]}/{key[1]}@{key[2]}", path))
        return entry

    def _known(self, key: Key) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise NotResident(f"{key[0]}/{key[1]}@{key[2]} is not resident here")
        return entry

    def _tier(self, entry: Entry) -> Tier:
        if (tier := self._slots.tier(entry.lora.name)) is not None:
            return tier
        return Tier.DISK if entry.on_disk else Tier.STORE

    def _row(self, entry: Entry) -> ResidentAdapter:
        return ResidentAdapter(
            *entry.key,
            tier=self._tier(entry),
            disk_bytes=self._tiers.disk.size(entry.key),
            host_bytes=self._tiers.host.size(entry.key),
            users=entry.users,
            uses=entry.uses,
            last_use=entry.last_use,
            pinned=entry.pinned,
            loads=replace(entry.loads, device_ms=self._slots.device_ms(entry.lora.name)),
            slot=self._slots.slot(entry.lora.name),
        )
