"""A store with something of every kind in it, for the tests of garbage collection, of the check and of the copy."""

import json
import random
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Protocol

from adapter_store import AdapterStore, BaseInfo, DatasetManifest, Provenance, VersionManifest, layout, read_base
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.backends.protocol import Backend
from tests.contract.wrapped import Wrapped
from tests.store_samples import make_adapter, make_base

MADE = Provenance(made_by="tests")
WHO = {"by": "tests", "reason": "because"}


class Place(Protocol):
    """Where empty stores can be opened, and reached behind a backend's back."""

    def open(self) -> Backend:
        """Opens another empty one."""
        ...

    def damage(self, backend: Backend, key: str, data: bytes) -> None:
        """Replaces the bytes of an object."""
        ...

    def leave_unfinished(self, backend: Backend) -> None:
        """Begins a write, and does not end it."""
        ...


class Folders:
    """Stores in folders below one."""

    def __init__(self, root: Path) -> None:
        self._root, self._numbers = root, count()

    def open(self) -> Backend:
        return FilesystemBackend(self._root / f"{next(self._numbers)}")

    def damage(self, backend: Backend, key: str, data: bytes) -> None:
        self._backend(backend)._path(key).write_bytes(data)

    def leave_unfinished(self, backend: Backend) -> None:
        (self._backend(backend)._temporary / "half").write_bytes(b"half")

    def _backend(self, backend: Backend) -> FilesystemBackend:
        real = backend.real if isinstance(backend, Wrapped) else backend
        assert isinstance(real, FilesystemBackend)
        return real


@dataclass(frozen=True)
class Samples:
    """What is published from; made once for many stores."""

    folder: Path
    base: BaseInfo

    @classmethod
    def make(cls, folder: Path) -> "Samples":
        samples = cls(folder, read_base(make_base(folder / "base")))
        for seed in range(6):
            make_adapter(folder / f"adapter{seed}", seed)
            rows = [{"instruction": f"{seed}", "response": f"{row}"} for row in range(3)]
            (folder / f"rows{seed}").write_text("\n".join(map(json.dumps, rows)))
        return samples

    def publish(
        self, store: AdapterStore, seed: int, tenant: str = "acme", adapter: str = "greeter"
    ) -> VersionManifest:
        return store.versions.publish(tenant, adapter, self.folder / f"adapter{seed}", base=self.base, made=MADE)

    def upload(self, store: AdapterStore, seed: int, tenant: str = "acme") -> DatasetManifest:
        return store.datasets.put(tenant, self.folder / f"rows{seed}", display_name="rows", format="jsonl", rows=3)


def impatient(backend: Backend) -> AdapterStore:
    """A store whose publishers do not wait for a collector, and whose deletions have no grace time."""
    store = AdapterStore(backend)
    store.versions._publishing._wait_s = 0.0
    store.removal._deletions._grace = timedelta(days=-1)
    return store


@dataclass(frozen=True)
class Populated:
    """What `populate` made."""

    kept: VersionManifest
    """`prod` names it, after `lost`."""
    split: VersionManifest
    """Named by the split alias `canary` beside `kept`."""
    deleted: VersionManifest
    """Deleted, its grace time over."""
    lost: VersionManifest
    """Blobs without a manifest, as a publisher leaves them who died."""
    dataset: DatasetManifest
    held: DatasetManifest
    """Deleted, its grace time over, needed by job `running`."""
    deleted_dataset: DatasetManifest


def populate(backend: Backend, samples: Samples) -> Populated:
    """Makes a tenant `acme` with something of every kind."""
    store = impatient(backend)
    store.tenants.create("acme")
    kept, split, deleted, lost = (samples.publish(store, seed) for seed in range(4))
    store.aliases.set("acme", "greeter", "prod", lost.version, **WHO)
    store.aliases.set("acme", "greeter", "prod", kept.version, **WHO)
    store.aliases.split("acme", "greeter", "canary", {kept.version: 1, split.version: 1}, **WHO)
    dataset, held, deleted_dataset = (samples.upload(store, seed) for seed in range(3))
    store.holds.hold("acme", "running", [held.id], by="tests")
    store.holds.hold("acme", "ended", [deleted_dataset.id], by="tests")
    store.holds.release("acme", "ended", by="tests")
    store.removal.delete_version("acme", "greeter", deleted.version, **WHO)
    for gone in (held, deleted_dataset):
        store.datasets.delete("acme", gone.id, **WHO)
    backend.delete(layout.version("acme", "greeter", lost.version))
    return Populated(kept, split, deleted, lost, dataset, held, deleted_dataset)


def merged_folder(folder: Path, seed: int = 0) -> Path:
    """A folder of merged weights, as the store sees them: files."""
    folder.mkdir(parents=True)
    (folder / "merged.safetensors").write_bytes(random.Random(seed).randbytes(3000))
    (folder / "merged.json").write_text(json.dumps({"seed": seed}))
    return folder


def lose_again(backend: Backend, made: Populated) -> None:
    """Brings a store in which everything has been published again back to what `populate` left to collect."""
    store = impatient(backend)
    store.removal.delete_version("acme", "greeter", made.deleted.version, **WHO)
    store.datasets.delete("acme", made.deleted_dataset.id, **WHO)
    backend.delete(layout.version("acme", "greeter", made.lost.version))


def assert_whole(store: AdapterStore, made: Populated) -> None:
    """What must survive every collection is there, down to its bytes."""
    assert store.resolve("acme", "greeter").version == made.kept.version
    for version in (made.kept, made.split):
        assert_sound(store, version)
    for dataset in (made.dataset, made.held):
        assert store.datasets.read("acme", dataset.id) == dataset
        assert store.datasets._blobs.digest("acme", dataset.sha256) == (dataset.sha256, dataset.size)


def assert_sound(store: AdapterStore, version: VersionManifest) -> None:
    assert store.versions.get(version.tenant, version.adapter, version.version) == version
    assert [check.problem for check in store.versions.verify(version)] == [""] * 3
