"""Where merged weights come from: the store when it has them, else merged here and put there for other nodes.

Owns that choice, and what happens while the store is away. Does not own merging (the engines) or the store's layout.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from adapter_store.errors import CorruptBlob, CorruptRecord, StoreError, StoreUnavailable
from adapter_store.manifest import VersionManifest
from adapter_store.outage import Outage
from adapter_store.safetensors_header import MalformedHeader, read_header
from serving_service.core.folders import delete
from serving_service.core.residency import Residency
from serving_service.engine.merged_protocol import MERGED_WEIGHTS, MergedEngines, MergedFiles

_PUBLISH_AGAIN_S = 30.0  # while the store is away
_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class MergedStore(Protocol):
    """Merged weights in the store, by the backbone's digest and the version's; sync and thread-safe."""

    def find(self, base_digest: str, version: str) -> object | None:
        """Returns what is known of them, None when there are none."""
        ...

    def publish(self, base_digest: str, version: str, folder: Path) -> object:
        """Puts the folder's files there; keeps what somebody else put there first."""
        ...

    def fetch(self, base_digest: str, version: str, folder: Path) -> object:
        """Makes the folder, verified. Raises a StoreError when they are damaged."""
        ...

    def remove(self, base_digest: str, version: str) -> None:
        """Removes them, whole or damaged."""
        ...


@dataclass(frozen=True, slots=True)
class Brought:
    """Merged weights, on disk.

    Attributes:
        files: what an engine starts from.
        template: the chat template that the adapter was trained with.
        from_store: somebody else merged them.
        instead: of what is in the store, which is of no use.
    """

    files: MergedFiles
    template: str
    from_store: bool
    instead: bool = False


class Weights:
    """Brings merged weights.

    Args:
        engines: merges.
        residency: has the adapters' files.
        base_digest: of the backbone.
        store: keeps merged weights; None: each node merges for itself.
        outage: what is known of the store; shared with others that ask it.
    """

    def __init__(
        self,
        engines: MergedEngines,
        residency: Residency,
        base_digest: str,
        store: MergedStore | None,
        outage: Outage,
    ) -> None:
        self._engines, self._residency, self._base = engines, residency, base_digest
        self._store, self._outage = store, outage

    async def bring(self, manifest: VersionManifest, folder: Path, *, from_store: bool = True) -> Brought:
        """Makes `folder`; what a failure leaves there is the caller's to delete.

        Args:
            manifest: which version.
            folder: new.
            from_store: False merges here even when the store has them.

        Raises:
            AdapterRefused, EngineUnavailable: of `MergedEngines.merge`. StoreError, CacheFull: the adapter itself is not to be had.
        """
        await in_thread(_make_way, folder)
        async with self._residency.on_disk(manifest) as adapter:
            instead = not from_store
            if from_store:
                try:
                    if files := await self._fetched(manifest, folder):
                        return Brought(files, adapter.template, from_store=True)
                except (StoreError, MalformedHeader) as error:
                    log.warning("merged weights in the store are of no use", version=manifest.version, cause=str(error))
                    await in_thread(delete, folder)
                    instead = isinstance(error, CorruptBlob | CorruptRecord | MalformedHeader)
            files = await self._engines.merge(adapter.lora.path, folder)
            return Brought(files, adapter.template, from_store=False, instead=instead)

    async def publish(self, manifest: VersionManifest, folder: Path, *, instead: bool) -> None:
        """Puts weights that were merged here into the store; while that is away, again and again. Failing costs other nodes a
        merge of their own, so it is logged and nothing else.

        Args:
            manifest: whose.
            folder: with the files.
            instead: of what is in the store, which is damaged, or failed the comparison that these have passed.
        """
        while self._store is not None:
            try:
                await in_thread(self._publish, self._store, manifest.version, folder, instead)
                return
            except StoreUnavailable:
                await asyncio.sleep(_PUBLISH_AGAIN_S)
            except (StoreError, OSError) as error:
                log.warning("merged weights were not published", version=manifest.version, cause=str(error))
                return

    async def _fetched(self, manifest: VersionManifest, folder: Path) -> MergedFiles | None:
        if self._store is None:
            return None
        return await in_thread(self._fetch, self._store, manifest.version, folder)

    def _fetch(self, store: MergedStore, version: str, folder: Path) -> MergedFiles | None:
        with self._outage.question():
            if store.find(self._base, version) is None:
                return None
            store.fetch(self._base, version, folder)
        weights = folder / MERGED_WEIGHTS
        return MergedFiles(folder, weights.stat().st_size, len(read_header(weights)))

    def _publish(self, store: MergedStore, version: str, folder: Path, instead: bool) -> None:
        with self._outage.question():
            if instead:
                store.remove(self._base, version)
            store.publish(self._base, version, folder)


async def in_thread(call: Callable[..., _T], *args: object) -> _T:
    """Runs a blocking call in a thread; a cancellation is passed on once it has ended, so that nothing writes into a folder
    that its owner deletes."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _make_way(folder: Path) -> None:
    delete(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
