"""What the store promises on every backend; inherited, not run by itself."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from adapter_store import AdapterStore, BaseInfo, Provenance, VersionManifest, open_store, read_base
from adapter_store.errors import AlreadyExists, CorruptBlob, CorruptRecord, InvalidName, NotFound, VersionConflict
from adapter_store.layout import blob
from adapter_store.manifest import WEIGHTS_FILE
from tests.contract import racers
from tests.contract.backend_contract import Raw
from tests.store_samples import make_adapter, make_base

MADE = Provenance(made_by="tests", metrics={"eval_loss": 0.5})


class StoreFixtures:
    """Subclasses give `raw` and `url`."""

    @pytest.fixture
    def store(self, url: str) -> AdapterStore:
        store = open_store(url)
        store.tenants.create("acme")
        return store

    @pytest.fixture
    def base(self, tmp_path: Path) -> BaseInfo:
        return read_base(make_base(tmp_path / "base"))

    @pytest.fixture
    def version(self, store: AdapterStore, base: BaseInfo, tmp_path: Path) -> VersionManifest:
        folder = make_adapter(tmp_path / "adapter")
        return store.versions.publish("acme", "greeter", folder, base=base, made=MADE)


class StoreContract(StoreFixtures):
    """Subclasses give `raw` and `url`."""

    def test_what_was_published_comes_back(self, store: AdapterStore, version: VersionManifest, tmp_path: Path) -> None:
        out = store.versions.fetch(store.versions.get("acme", "greeter", version.version), tmp_path / "out")
        assert sorted(file.name for file in out.iterdir()) == sorted(file.path for file in version.files)
        assert (out / WEIGHTS_FILE).read_bytes() == (tmp_path / "adapter" / WEIGHTS_FILE).read_bytes()
        assert len(load_file(out / WEIGHTS_FILE)) == 8
        assert not list(tmp_path.glob("out.*")), "no partial folder is left"

    def test_same_content_is_one_version_and_the_first_provenance_stays(
        self, store: AdapterStore, version: VersionManifest, base: BaseInfo, tmp_path: Path
    ) -> None:
        folder = make_adapter(tmp_path / "again", target_modules=["q_proj", "v_proj"], base_model_name_or_path="x")
        again = store.versions.publish("acme", "greeter", folder, base=base, made=Provenance(made_by="another"))
        assert again == version
        assert store.versions.list("acme", "greeter").items == [version]

    @pytest.mark.parametrize("settings", [{"lora_alpha": 16}, {"use_rslora": True}])
    def test_what_changes_the_output_changes_the_version(
        self, store: AdapterStore, version: VersionManifest, base: BaseInfo, tmp_path: Path, settings: dict[str, object]
    ) -> None:
        other = store.versions.publish(
            "acme", "greeter", make_adapter(tmp_path / "other", **settings), base=base, made=MADE
        )
        assert other.version != version.version

    def test_processes_that_publish_the_same_get_one_manifest(
        self, store: AdapterStore, url: str, base: BaseInfo, tmp_path: Path
    ) -> None:
        folder = make_adapter(tmp_path / "same")
        found = racers.race(racers.publish, url, str(folder), str(tmp_path / "base"))
        assert found == store.versions.list("acme", "greeter").items * racers.RACERS

    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-1], lambda _: b""]
    )
    def test_a_damaged_blob_is_never_handed_out_and_publishing_heals_it(
        self, store: AdapterStore, version: VersionManifest, raw: Raw, base: BaseInfo, tmp_path: Path, damage
    ) -> None:
        key = blob("acme", version.file(WEIGHTS_FILE).sha256)
        raw.put(key, damage(raw.get(key)))
        with pytest.raises(CorruptBlob):
            store.versions.fetch(version, tmp_path / "out")
        assert not list(tmp_path.glob("out*"))
        store.versions.publish("acme", "greeter", tmp_path / "adapter", base=base, made=MADE)
        store.versions.fetch(version, tmp_path / "out")

    def test_a_changed_manifest_is_refused(self, store: AdapterStore, version: VersionManifest, raw: Raw) -> None:
        (key,) = (key for key in raw.keys() if "/versions/" in key)  # noqa: SIM118
        raw.put(key, raw.get(key).replace(b'"rank":4', b'"rank":8'))  # type: ignore[union-attr]
        with pytest.raises(CorruptRecord):
            store.versions.get("acme", "greeter", version.version)

    def test_a_sound_folder_is_kept_and_a_damaged_one_replaced(
        self, store: AdapterStore, version: VersionManifest, tmp_path: Path
    ) -> None:
        out = store.versions.fetch(version, tmp_path / "out")
        identity = (out / WEIGHTS_FILE).stat().st_ino
        store.versions.fetch(version, out)
        assert (out / WEIGHTS_FILE).stat().st_ino == identity
        (out / WEIGHTS_FILE).write_bytes(b"damaged")
        store.versions.fetch(version, out)
        assert (out / WEIGHTS_FILE).stat().st_size == version.file(WEIGHTS_FILE).size

    def test_one_process_moves_an_alias_to_each_number(
        self, store: AdapterStore, version: VersionManifest, url: str
    ) -> None:
        found = racers.race(racers.move_alias, url, version.version, 0)
        assert sorted(map(str, found)) == ["1"] * (racers.RACERS - 1) + ["won"]
        (record,) = store.aliases.history("acme", "greeter", "prod")
        assert record.by == f"racer {found.index('won')}"

    def test_processes_that_publish_and_promote_lose_nothing(
        self, store: AdapterStore, base: BaseInfo, url: str, tmp_path: Path
    ) -> None:
        rounds = 3
        found = racers.race(racers.publish_and_promote, url, rounds, str(tmp_path / "folders"), str(tmp_path / "base"))
        history = {record.number: record for record in store.aliases.history("acme", "greeter", "prod")}
        assert sorted(history) == list(range(1, rounds * (racers.RACERS + 1) + 1)), "no number is missing"
        for turn in range(rounds):
            winners = [number for number, racer in enumerate(found) if racer.won[turn]]
            first = turn * (racers.RACERS + 1) + 1
            assert [history[first].by] == [f"racer {number}" for number in winners], "one winner for the number"
        for number, racer in enumerate(
            found
        ):  # every move that was answered is in the history, under the answer's number
            for turn in range(rounds):
                record = history[racer.free[turn]]
                assert (record.by, record.reason) == (f"racer {number}", f"round {turn}")
                assert record.version == racer.versions[2 * turn + 1]
        published = {version for racer in found for version in racer.versions}
        assert {item.version for item in store.versions.list("acme", "greeter", 1000).items} == published
        assert len(published) == 2 * rounds * racers.RACERS

    def test_alias_history_and_resolution(
        self, store: AdapterStore, version: VersionManifest, base: BaseInfo, tmp_path: Path
    ) -> None:
        second = store.versions.publish("acme", "greeter", make_adapter(tmp_path / "b", seed=1), base=base, made=MADE)
        one = store.aliases.set("acme", "greeter", "prod", version.version, expected=0, by="a", reason="first")
        two = store.aliases.set("acme", "greeter", "prod", second.version, expected=1, by="b", reason="better")
        assert (one.number, two.number) == (1, 2)
        assert store.aliases.set("acme", "greeter", "prod", second.version, by="c", reason="again") == two
        with pytest.raises(VersionConflict) as lost:
            store.aliases.set("acme", "greeter", "prod", version.version, expected=1, by="d", reason="late")
        assert lost.value.current == 2
        assert store.aliases.history("acme", "greeter", "prod") == [two, one]
        assert store.resolve("acme", "greeter") == second
        assert store.resolve("acme", "greeter", version=version.version) == version
        assert store.adapters.get("acme", "greeter").aliases == (two,)

    def test_an_alias_cannot_point_at_nothing(self, store: AdapterStore, version: VersionManifest) -> None:
        with pytest.raises(NotFound):
            store.aliases.set("acme", "greeter", "prod", "0" * 64, by="a", reason="")
        with pytest.raises(NotFound):
            store.aliases.get("acme", "greeter", "prod")

    def test_another_tenants_things_are_not_found(self, store: AdapterStore, version: VersionManifest) -> None:
        store.tenants.create("other")
        with pytest.raises(NotFound):
            store.versions.get("other", "greeter", version.version)
        with pytest.raises(NotFound):
            store.adapters.get("other", "greeter")
        assert store.adapters.list("other").items == []

    def test_publishing_needs_the_tenant(self, store: AdapterStore, base: BaseInfo, raw: Raw, tmp_path: Path) -> None:
        before = raw.keys()
        with pytest.raises(NotFound):
            store.versions.publish("nobody", "greeter", make_adapter(tmp_path / "a"), base=base, made=MADE)
        assert raw.keys() == before

    def test_pages_stay_right_while_tenants_are_added(self, store: AdapterStore) -> None:
        for name in ("b", "d", "f"):
            store.tenants.create(name)
        page = store.tenants.list(2)
        store.tenants.create("a")
        store.tenants.create("e")
        rest = store.tenants.list(10, page.next_page_token)
        assert [record.tenant for record in page.items + rest.items] == ["acme", "b", "d", "e", "f"]
        assert rest.next_page_token == ""
        with pytest.raises(InvalidName):
            store.adapters.list("acme", 10, page.next_page_token)

    def test_tenants_are_made_once(self, store: AdapterStore) -> None:
        with pytest.raises(AlreadyExists):
            store.tenants.create("acme")

    def test_data_sets_come_back_and_have_the_contents_id(self, store: AdapterStore, raw: Raw, tmp_path: Path) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text('{"instruction": "a", "response": "b"}\n')
        kept = store.datasets.put("acme", file, display_name="rows", format="jsonl", rows=1)
        assert store.datasets.put("acme", file, display_name="renamed", format="jsonl", rows=1) == kept
        assert store.datasets.list("acme").items == [kept]
        out = store.datasets.fetch("acme", kept.id, tmp_path / "out")
        assert out.read_bytes() == file.read_bytes()
        raw.put(blob("acme", kept.sha256), b"damaged")
        with pytest.raises(CorruptBlob):
            store.datasets.fetch("acme", kept.id, tmp_path / "second")
        assert not (tmp_path / "second").exists()
        with pytest.raises(NotFound):
            store.datasets.get("other", kept.id)
