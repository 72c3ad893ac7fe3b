"""What merged weights promise on every backend; inherited, not run by itself."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from adapter_store import AdapterStore, layout, open_store
from adapter_store.backends.protocol import Backend
from adapter_store.errors import CorruptBlob, CorruptRecord, InvalidMerged, InvalidName, NotFound
from adapter_store.merged import MAX_FILES, Merged, MergedManifest
from tests.contract.backend_contract import Raw
from tests.contract.collected import merged_folder
from tests.contract.store_contract import StoreFixtures
from tests.contract.wrapped import Interrupted

BASE, VERSION = "b" * 64, "a" * 64
PUBLISHERS = 4


class Died(BaseException):
    """As a killed process: no `except Exception` goes on."""


class MergedContract(StoreFixtures):
    """Subclasses give `raw` and `url`."""

    @pytest.fixture
    def merged(self, store: AdapterStore) -> Merged:
        return store.merged

    @pytest.fixture
    def backend(self, store: AdapterStore) -> Backend:
        return store._backend

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return merged_folder(tmp_path / "merged")

    def test_what_was_published_comes_back_on_another_node(
        self, merged: Merged, folder: Path, url: str, tmp_path: Path
    ) -> None:
        assert merged.find(BASE, VERSION) is None
        made = merged.publish(BASE, VERSION, folder)
        assert made.size == sum(file.stat().st_size for file in folder.iterdir())
        other = open_store(url).merged
        assert other.find(BASE, VERSION) == made
        assert other.fetch(BASE, VERSION, tmp_path / "out") == made
        assert contents(tmp_path / "out") == contents(folder)
        assert not list(tmp_path.glob("out.*")), "no partial folder is left"
        assert merged.find(VERSION, BASE) is None

    def test_a_second_publisher_takes_the_firsts(self, merged: Merged, folder: Path, raw: Raw, tmp_path: Path) -> None:
        made = merged.publish(BASE, VERSION, folder)
        before = raw.keys()
        assert merged.publish(BASE, VERSION, merged_folder(tmp_path / "other", seed=1)) == made
        assert raw.keys() == before
        merged.fetch(BASE, VERSION, tmp_path / "out")
        assert contents(tmp_path / "out") == contents(folder)

    def test_publishers_with_other_bytes_that_race_leave_one_whole_set(
        self, url: str, merged: Merged, raw: Raw, tmp_path: Path
    ) -> None:
        """All look before anybody has published, and upload beside each other."""
        folders = [merged_folder(tmp_path / f"f{seed}", seed) for seed in range(PUBLISHERS)]
        looked = threading.Barrier(PUBLISHERS)

        class Together(Merged):
            def _put(self, *arguments) -> MergedManifest:
                looked.wait(60)
                made = super()._put(*arguments)
                looked.wait(60)
                return made

        with ThreadPoolExecutor(PUBLISHERS) as pool:
            found = list(
                pool.map(lambda folder: Together(open_store(url)._backend).publish(BASE, VERSION, folder), folders)
            )
        assert found == [merged.find(BASE, VERSION)] * PUBLISHERS
        merged.fetch(BASE, VERSION, tmp_path / "out")
        assert contents(tmp_path / "out") in [contents(folder) for folder in folders]
        assert len(keys(raw)) == 3, "of those who lost nothing is left"

    def test_a_publisher_that_died_at_any_step_shows_nothing_half(
        self, merged: Merged, backend: Backend, folder: Path, tmp_path: Path
    ) -> None:
        def die() -> None:
            raise Died

        for step in count(1):
            merged.remove(BASE, VERSION)
            dying = Interrupted(backend, step, die)
            try:
                made = Merged(dying).publish(BASE, VERSION, folder)
            except Died:
                if found := merged.find(BASE, VERSION):
                    assert merged.fetch(BASE, VERSION, tmp_path / f"{step}") == found
                made = merged.publish(BASE, VERSION, folder)
            assert merged.fetch(BASE, VERSION, tmp_path / f"again{step}") == made
            if dying.calls < step:
                break
        assert step > 4

    def test_a_removal_at_any_step_of_a_publisher_leaves_nothing_half(
        self, merged: Merged, backend: Backend, folder: Path, tmp_path: Path
    ) -> None:
        """Of a store that keeps up: another node removes what it found damaged while this one publishes it anew."""
        for step in count(1):
            merged.remove(BASE, VERSION)
            inside = Interrupted(backend, step, lambda: merged.remove(BASE, VERSION))
            Merged(inside).publish(BASE, VERSION, folder)
            if merged.find(BASE, VERSION):
                merged.fetch(BASE, VERSION, tmp_path / f"{step}")
            if inside.calls < step:
                break
        assert step > 4

    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-1], lambda data: data + b"x"]
    )
    def test_damaged_files_are_never_handed_out_and_merging_again_heals(
        self, merged: Merged, folder: Path, raw: Raw, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        made = merged.publish(BASE, VERSION, folder)
        for file in made.files:
            raw.put(made.key(file), damage(raw.get(made.key(file)) or b""))
            with pytest.raises(CorruptBlob, match=file.path):
                merged.fetch(BASE, VERSION, tmp_path / "out")
            assert not list(tmp_path.glob("out*"))
            merged.remove(BASE, VERSION)
            assert not keys(raw)
            merged.publish(BASE, VERSION, folder)
        merged.fetch(BASE, VERSION, tmp_path / "out")

    def test_a_missing_file_is_damage_and_missing_weights_are_not_found(
        self, merged: Merged, folder: Path, backend: Backend, tmp_path: Path
    ) -> None:
        with pytest.raises(NotFound):
            merged.fetch(BASE, VERSION, tmp_path / "out")
        made = merged.publish(BASE, VERSION, folder)
        backend.delete(made.key(made.files[0]))
        with pytest.raises(CorruptBlob):
            merged.fetch(BASE, VERSION, tmp_path / "out")
        merged.remove(BASE, VERSION)
        merged.remove(BASE, VERSION)
        with pytest.raises(NotFound):
            merged.fetch(BASE, VERSION, tmp_path / "out")
        assert not list(tmp_path.glob("out*"))

    @pytest.mark.parametrize("change", [lambda _: b"{}", lambda data: data.replace(b"merged.json", b"Merged.json")])
    def test_a_damaged_manifest_is_refused_until_it_is_removed(
        self, merged: Merged, folder: Path, raw: Raw, tmp_path: Path, change: Callable[[bytes], bytes]
    ) -> None:
        made = merged.publish(BASE, VERSION, folder)
        manifest = layout.merged_manifest(BASE, VERSION)
        raw.put(manifest, change(raw.get(manifest) or b""))
        for call in (
            merged.find,
            lambda *at: merged.publish(*at, folder),
            lambda *at: merged.fetch(*at, tmp_path / "o"),
        ):
            with pytest.raises(CorruptRecord):
                call(BASE, VERSION)
        merged.remove(BASE, VERSION)
        assert merged.publish(BASE, VERSION, folder).files == made.files

    def test_a_manifest_in_anothers_place_is_refused(self, merged: Merged, folder: Path, raw: Raw) -> None:
        merged.publish(BASE, VERSION, folder)
        raw.put(layout.merged_manifest(BASE, BASE), raw.get(layout.merged_manifest(BASE, VERSION)) or b"")
        with pytest.raises(CorruptRecord, match="another"):
            merged.find(BASE, BASE)

    def test_a_sound_folder_is_kept_and_a_damaged_one_replaced(
        self, merged: Merged, folder: Path, tmp_path: Path
    ) -> None:
        merged.publish(BASE, VERSION, folder)
        merged.fetch(BASE, VERSION, tmp_path / "out")
        identity = (tmp_path / "out/merged.json").stat().st_ino
        merged.fetch(BASE, VERSION, tmp_path / "out")
        assert (tmp_path / "out/merged.json").stat().st_ino == identity
        (tmp_path / "out/merged.safetensors").write_bytes(b"damaged")
        merged.fetch(BASE, VERSION, tmp_path / "out")
        assert contents(tmp_path / "out") == contents(folder)

    @pytest.mark.parametrize("what", ["nothing", "folder", "link", "dot", "space", "many"])
    def test_only_plain_files_are_published(
        self, merged: Merged, folder: Path, raw: Raw, tmp_path: Path, what: str
    ) -> None:
        match what:
            case "nothing":
                folder = tmp_path / "empty"
                folder.mkdir()
            case "folder":
                (folder / "below").mkdir()
            case "link":
                (folder / "link").symlink_to("/etc/passwd")
            case "many":
                for number in range(MAX_FILES):
                    (folder / f"{number}").touch()
            case _:
                (folder / {"dot": ".hidden", "space": "a b"}[what]).touch()
        with pytest.raises(InvalidMerged):
            merged.publish(BASE, VERSION, folder)
        assert not keys(raw)

    @pytest.mark.parametrize("digest", ["", "../x", "A" * 64, "a" * 63])
    def test_digests_are_digests(self, merged: Merged, folder: Path, digest: str) -> None:
        for base, version in ((digest, VERSION), (BASE, digest)):
            for call in (merged.find, merged.remove, lambda *at: merged.publish(*at, folder)):
                with pytest.raises(InvalidName):
                    call(base, version)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def keys(raw: Raw) -> list[str]:
    return [key for key in raw.keys() if "/merged/" in key]  # noqa: SIM118
