"""What residency knows of one adapter version, and the plain types that it hands out.

Owns the record. Does not own its changes (`residency`) nor room (`room`).
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from adapter_store.manifest import VersionManifest
from serving_service.engine.protocol import LoraRef, Tier

Key = tuple[str, str, str]
"""Tenant, adapter, version."""


def key_of(manifest: VersionManifest) -> Key:
    """Returns a version's key."""
    return manifest.tenant, manifest.adapter, manifest.version


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a loaded adapter.

    Attributes:
        lora: what the engine takes.
        manifest: which version it is.
        tier: where it was found.
        load_ms: what making it resident took; 0 when the engine held it.
        template: the chat template that it was trained with.
    """

    lora: LoraRef
    manifest: VersionManifest
    tier: Tier
    load_ms: float
    template: str


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """Milliseconds of the last move into each tier; 0 where there was none."""

    disk_ms: float = 0.0
    """Store to disk: fetched and verified."""
    host_ms: float = 0.0
    """Disk to host memory: verified again, read, converted and packed."""
    device_ms: float = 0.0
    """Host memory to a slot of the device."""


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """One row for operators."""

    tenant: str
    adapter: str
    version: str
    tier: Tier
    disk_bytes: int
    host_bytes: int
    users: int
    uses: int
    last_use: datetime | None
    pinned: bool
    loads: LoadTimes
    slot: int | None = None
    """Of the device, from 0; None for one that is in none."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a version is at one moment: the fastest tier that holds it, and whether it is pinned."""

    tier: Tier
    pinned: bool


NOT_HERE = Standing(Tier.STORE, False)


@dataclass(frozen=True, slots=True)
class Census:
    """What is here, counted.

    Attributes:
        adapters: versions by the fastest tier that holds them; those on their way from the store count as there.
        bytes: on disk and in host memory.
    """

    adapters: dict[Tier, int]
    bytes: dict[Tier, int]


@dataclass(slots=True)
class Entry:
    """The record of one version, changed by `Residency` only."""

    key: Key
    manifest: VersionManifest
    lora: LoraRef
    users: int = 0
    """Requests that hold or await it."""
    move: "asyncio.Task[None] | None" = None
    """Bringing it in or taking it out of the engine; counts as a user, for whoever started it may have gone."""
    on_disk: bool = False
    uses: int = 0
    last_use: datetime | None = None
    pinned: bool = False
    loads: LoadTimes = field(default_factory=LoadTimes)
    template: str | None = None
    """Kept from the first load on: reading it for each request would cost a thread's turn."""

    @property
    def busy(self) -> bool:
        """Whether taking it away would take it from somebody."""
        return self.users > 0 or self.move is not None

    @property
    def may_go(self) -> bool:
        """Whether it may be evicted to make room."""
        return not self.busy and not self.pinned
