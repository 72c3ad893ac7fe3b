"""Garbage collection, check and copy under their contracts, on the file system."""

from pathlib import Path

import pytest

from adapter_store import VersionManifest, layout
from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.backends.protocol import Backend
from adapter_store.errors import BeingPurged, StoreUnavailable
from tests.contract.check_contract import CheckContract
from tests.contract.collect_contract import CollectContract, gc
from tests.contract.collect_races_contract import CollectRacesContract
from tests.contract.collected import WHO, Folders, Samples, assert_sound, impatient
from tests.contract.copy_contract import CopyContract
from tests.contract.test_filesystem import RawFiles
from tests.contract.wrapped import Aged, Stepped


@pytest.fixture
def place(folders: Folders) -> Folders:
    return folders


class TestFilesystemCollect(CollectContract):
    pass


class TestFilesystemCollectRaces(CollectRacesContract):
    """Beyond the contract: every pair of steps, which would take too long over a network."""

    @pytest.mark.thorough
    @pytest.mark.slow
    @pytest.mark.parametrize("first", ["publisher", "collection"])
    @pytest.mark.parametrize("is_deleted", [False, True], ids=["orphaned", "deleted"])
    def test_publisher_and_collection_held_at_every_pair_of_steps(
        self, place: Folders, samples: Samples, first: str, is_deleted: bool
    ) -> None:
        """One goes so far, then the other, then the first to its end, then the other to its end."""
        pairs, refusals, at = 0, 0, [1, 1]
        while True:
            backend = Aged(place.open())
            store = impatient(backend)
            store.tenants.create("acme")
            kept, gone = samples.publish(store, 0), samples.publish(store, 1)
            store.aliases.set("acme", "greeter", "prod", kept.version, **WHO)
            if is_deleted:
                store.removal.delete_version("acme", "greeter", gone.version, **WHO)
            else:
                backend.delete(layout.version("acme", "greeter", gone.version))
            backend.age()

            def publish(backend: Backend) -> VersionManifest | None:
                try:
                    return samples.publish(impatient(backend), 1)
                except (BeingPurged, StoreUnavailable):
                    return None

            works = [publish, gc] if first == "publisher" else [gc, publish]
            flights = [Stepped(backend, work, step) for work, step in zip(works, at, strict=True)]
            answers = [flight.finish() for flight in flights]
            if None in answers:
                refusals += 1
                gc(backend)
                samples.publish(store, 1)
            assert_sound(store, kept)
            assert_sound(store, store.versions.get("acme", "greeter", gone.version))
            pairs += 1
            at[1] += 1
            if not flights[1].reached:
                at = [at[0] + 1, 1]
            if not flights[0].reached:
                break
        assert pairs > 100
        assert refusals


class TestFilesystemCopy(CopyContract):
    @pytest.fixture
    def destinations(self, folders: Folders) -> Folders:
        return folders


class TestFilesystemCheck(CheckContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> FilesystemBackend:
        return FilesystemBackend(tmp_path / "store")

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawFiles:
        return RawFiles(tmp_path / "store")
