"""Making a manifest visible, with every blob that it names in place and none about to be collected.

Owns the order (blobs, look, manifest) and the time that it may take. Does not own what a manifest says. The argument why no
collector can take a blob from under a manifest is in `adapter_store.sweeps`; it needs blobs that are written anew each time, so
nothing here skips an upload because the bytes are there already.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from adapter_store import documents, layout
from adapter_store.backends.protocol import Backend
from adapter_store.errors import StoreUnavailable
from adapter_store.manifest import BlobRef, DatasetManifest, VersionManifest
from adapter_store.sweeps import LIFE, Sweeps

LIMIT = timedelta(hours=2)
"""Longest time between the first byte of the first blob and the manifest. Garbage collection leaves alone whatever is younger
than twice this."""
WAIT_S = 60.0
"""How long a publisher waits for a collector that is removing the same bytes right now; a notice is gone within seconds."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


M = TypeVar("M", VersionManifest, DatasetManifest)


class Publishing:
    """Publishes manifests of all tenants.

    Args:
        backend: the object store.
        sweeps: what is being removed.
        wait_s: see WAIT_S.
    """

    def __init__(self, backend: Backend, sweeps: Sweeps, wait_s: float = WAIT_S) -> None:
        self._backend, self._sweeps, self._wait_s = backend, sweeps, wait_s

    def publish(self, tenant: str, put: Callable[[], M], key_of: Callable[[M], str]) -> tuple[M, bool]:
        """Stores blobs and then their manifest. May be repeated after any failure.

        Args:
            tenant: the owner.
            put: writes every blob that the manifest names, whether it is there or not, and returns the manifest. Called again
                when a collector took one away meanwhile.
            key_of: where the manifest goes.

        Returns:
            The manifest, and whether it was written: False when the key is taken.

        Raises:
            StoreUnavailable: the store is away, the upload took longer than LIMIT, or the same bytes were being removed for
                longer than `wait_s`. Nothing is visible.
        """
        deadline, pause = time.monotonic() + self._wait_s, _FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            manifest = put()
            key = key_of(manifest)
            settled = self._is_settled(tenant, key, manifest.blobs)
            if time.monotonic() - began > LIMIT.total_seconds():
                raise StoreUnavailable(
                    f"storing took longer than {LIMIT.total_seconds() / 3600:g} hours, after which garbage collection may "
                    "remove what is not published; use a faster connection to the store"
                )
            if settled:
                return manifest, self._backend.create(key, documents.encode(manifest))
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    "garbage collection is removing the same content, which nobody used, right now; try again in a minute "
                    f"({LIFE.total_seconds() / 60:g} if the collector was killed)"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _is_settled(self, tenant: str, key: str, blobs: tuple[BlobRef, ...]) -> bool:
        """Whether all blobs are there to stay. The notices come first: see `adapter_store.sweeps`."""
        notices = self._sweeps.standing(tenant)
        keys = [layout.blob(tenant, blob.sha256) for blob in blobs]
        found = [entry for key in keys if (entry := self._backend.entry(key)) is not None]
        if [entry.size for entry in found] != [blob.size for blob in blobs]:
            return False
        written = min(entry.modified for entry in found)
        return not self._sweeps.any_concern(notices, [key, *keys], written)
