"""Roll-back, removal and tenants' settings on every backend; inherited, not run by itself."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_store import AdapterStore, BaseInfo, VersionManifest, layout, open_store
from adapter_store.deletions import GRACE
from adapter_store.errors import (
    BeingPurged,
    InUse,
    InvalidLimit,
    InvalidSplit,
    NotFound,
    NothingBefore,
    TenantDisabled,
    VersionConflict,
)
from adapter_store.manifest import DeletionRecord, TenantLimits
from adapter_store.numbered_log import NumberedLog
from tests.contract.backend_contract import Raw
from tests.contract.store_contract import MADE, StoreFixtures
from tests.store_samples import make_adapter

WHO = {"by": "tests", "reason": "because"}


class RemovalContract(StoreFixtures):
    """Subclasses give `raw` and `url`."""

    @pytest.fixture
    def versions(self, store: AdapterStore, base: BaseInfo, tmp_path: Path) -> list[VersionManifest]:
        return [
            store.versions.publish("acme", "greeter", make_adapter(tmp_path / f"v{seed}", seed), base=base, made=MADE)
            for seed in range(4)
        ]

    def point(self, store: AdapterStore, version: VersionManifest) -> int:
        return store.aliases.set("acme", "greeter", "prod", version.version, **WHO).number

    def roll_back(self, store: AdapterStore, expected: int | None = None) -> str:
        return store.aliases.roll_back("acme", "greeter", "prod", expected=expected, **WHO).version

    def test_each_roll_back_goes_one_further_back(self, store: AdapterStore, versions: list[VersionManifest]) -> None:
        one, two, three, four = (version.version for version in versions)
        for version in versions[:3]:
            self.point(store, version)
        assert self.roll_back(store) == two
        self.point(store, versions[3])
        assert self.roll_back(store) == two, "not three, which was rolled back itself"
        assert self.roll_back(store) == one
        with pytest.raises(NothingBefore):
            self.roll_back(store)
        history = store.aliases.history("acme", "greeter", "prod")
        assert [record.version for record in reversed(history)] == [one, two, three, two, four, two, one]
        assert [record.number for record in reversed(history)] == list(range(1, 8))

    def test_a_roll_back_passes_over_what_was_deleted(
        self, store: AdapterStore, versions: list[VersionManifest]
    ) -> None:
        for version in versions[:3]:
            self.point(store, version)
        store.removal.delete_version("acme", "greeter", versions[1].version, **WHO)
        assert self.roll_back(store) == versions[0].version

    def test_a_roll_back_that_lost_a_race_says_the_current_number(
        self, store: AdapterStore, versions: list[VersionManifest]
    ) -> None:
        for version in versions[:3]:
            self.point(store, version)
        with pytest.raises(VersionConflict) as lost:
            self.roll_back(store, expected=2)
        assert lost.value.current == 3

    def test_a_deleted_version_is_hidden_at_once_and_its_bytes_stay(
        self, store: AdapterStore, versions: list[VersionManifest], raw: Raw, url: str
    ) -> None:
        gone, kept = versions[0], versions[1:]
        before = set(raw.keys())
        record = store.removal.delete_version("acme", "greeter", gone.version, **WHO)
        assert record.purge_after == record.at + GRACE
        assert before < set(raw.keys()), "nothing is removed, one record is added"
        for other in (store, open_store(url)):
            with pytest.raises(NotFound) as hidden:
                other.versions.get("acme", "greeter", gone.version)
            with pytest.raises(NotFound):
                other.resolve("acme", "greeter", version=gone.version)
            listed = other.versions.list("acme", "greeter").items
            assert sorted(item.version for item in listed) == sorted(item.version for item in kept)
            with pytest.raises(NotFound):
                other.aliases.set("acme", "greeter", "prod", gone.version, **WHO)
        with pytest.raises(NotFound) as missing:
            store.versions.get("acme", "greeter", "0" * 64)
        assert str(missing.value) == str(hidden.value).replace(gone.version, "0" * 64)

    def test_what_an_alias_names_cannot_be_deleted(self, store: AdapterStore, versions: list[VersionManifest]) -> None:
        self.point(store, versions[0])
        with pytest.raises(InUse, match="prod"):
            store.removal.delete_version("acme", "greeter", versions[0].version, **WHO)
        with pytest.raises(InUse, match="prod"):
            store.removal.delete_adapter("acme", "greeter", **WHO)
        assert len(store.versions.list("acme", "greeter").items) == 4

    def test_an_alias_that_moves_during_a_deletion_wins(
        self, store: AdapterStore, versions: list[VersionManifest], url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The deletion falls between the alias's look at its version and its move."""
        target = versions[0].version
        append = NumberedLog.append

        def late(log: NumberedLog, record: object) -> object:
            if getattr(record, "alias", ""):
                monkeypatch.setattr(NumberedLog, "append", append)
                open_store(url).removal.delete_version("acme", "greeter", target, **WHO)
            return append(log, record)

        monkeypatch.setattr(NumberedLog, "append", late)
        self.point(store, versions[0])
        assert store.resolve("acme", "greeter").version == target
        assert store.versions.get("acme", "greeter", target).version == target

    def test_publishing_again_brings_back_what_was_deleted(
        self, store: AdapterStore, versions: list[VersionManifest], base: BaseInfo, tmp_path: Path
    ) -> None:
        store.removal.delete_version("acme", "greeter", versions[0].version, **WHO)
        again = store.versions.publish("acme", "greeter", tmp_path / "v0", base=base, made=MADE)
        assert again == versions[0] == store.versions.get("acme", "greeter", versions[0].version)
        assert len(store.versions.list("acme", "greeter").items) == 4

    def test_nobody_brings_back_what_the_collector_has_begun_to_remove(
        self, store: AdapterStore, versions: list[VersionManifest], base: BaseInfo, tmp_path: Path, raw: Raw
    ) -> None:
        digest = versions[0].version
        record = store.removal.delete_version("acme", "greeter", digest, **WHO)
        log = NumberedLog(store.versions._backend, layout.deletion_log("acme", "greeter", digest), DeletionRecord, "x")
        now = datetime.now(UTC) + timedelta(days=8)
        log.append(DeletionRecord(number=record.number + 1, tenant="acme", state="purging", at=now, by="gc"))
        before = raw.keys()
        with pytest.raises(BeingPurged):
            store.versions.publish("acme", "greeter", tmp_path / "v0", base=base, made=MADE)
        assert raw.keys() == before
        log.append(DeletionRecord(number=record.number + 2, tenant="acme", state="purged", at=now, by="gc"))
        store.versions.publish("acme", "greeter", tmp_path / "v0", base=base, made=MADE)
        assert store.versions.get("acme", "greeter", digest).version == digest

    def test_an_adapter_goes_with_its_last_version_and_its_aliases_first(
        self, store: AdapterStore, versions: list[VersionManifest], base: BaseInfo, tmp_path: Path
    ) -> None:
        self.point(store, versions[0])
        store.aliases.remove("acme", "greeter", "prod", **WHO)
        with pytest.raises(NotFound):
            store.resolve("acme", "greeter")
        assert store.adapters.get("acme", "greeter").aliases == ()
        assert len(store.removal.delete_adapter("acme", "greeter", **WHO)) == 4
        with pytest.raises(NotFound):
            store.adapters.get("acme", "greeter")
        assert store.adapters.list("acme").items == []
        with pytest.raises(NotFound):
            store.removal.delete_adapter("acme", "greeter", **WHO)
        store.versions.publish("acme", "greeter", tmp_path / "v2", base=base, made=MADE)
        assert [item.adapter for item in store.adapters.list("acme").items] == ["greeter"]

    def test_a_split_is_one_record_that_names_protects_and_rolls_back(
        self, store: AdapterStore, versions: list[VersionManifest], url: str
    ) -> None:
        old, new, other = (version.version for version in versions[:3])
        self.point(store, versions[0])
        split = store.aliases.split("acme", "greeter", "prod", {old: 10, new: 90}, expected=1, **WHO)
        assert (split.number, split.version) == (2, new)
        assert store.aliases.split("acme", "greeter", "prod", {new: 90, old: 10}, **WHO) == split
        found = {item.manifest.version: item.weight for item in open_store(url).targets("acme", "greeter")}
        assert found == {old: 10, new: 90}
        assert store.resolve("acme", "greeter").version == new, "a name for people means the heaviest"
        for digest in (old, new):
            with pytest.raises(InUse):
                store.removal.delete_version("acme", "greeter", digest, **WHO)
        store.removal.delete_version("acme", "greeter", other, **WHO)
        with pytest.raises(NotFound):
            store.aliases.split("acme", "greeter", "prod", {old: 1, other: 1}, **WHO)
        assert self.point(store, versions[1]) == 3, "from a split to its heaviest is a move"
        assert store.targets("acme", "greeter")[0].weight == 1
        back = store.aliases.roll_back("acme", "greeter", "prod", **WHO)
        assert (back.split, back.restores) == (split.split, 2)
        assert self.roll_back(store) == old

    @pytest.mark.parametrize("weights", [{}, {"0" * 64: 1}, {"0" * 64: 1, "1" * 64: 0}, {"0" * 64: 1, "1" * 64: 1001}])
    def test_a_split_that_is_none_is_refused(
        self, store: AdapterStore, versions: list[VersionManifest], weights: dict[str, int]
    ) -> None:
        with pytest.raises(InvalidSplit):
            store.aliases.split("acme", "greeter", "prod", weights, **WHO)

    def test_a_removed_alias_keeps_its_history_and_its_numbers(
        self, store: AdapterStore, versions: list[VersionManifest]
    ) -> None:
        self.point(store, versions[0])
        assert store.aliases.remove("acme", "greeter", "prod", **WHO).number == 2
        for again in (store.aliases.remove, store.aliases.roll_back):
            with pytest.raises(NotFound):
                again("acme", "greeter", "prod", **WHO)
        assert self.point(store, versions[0]) == 3
        assert [record.removed for record in store.aliases.history("acme", "greeter", "prod")] == [False, True, False]

    def test_a_deleted_data_set_is_hidden_and_stays_readable_for_its_jobs(
        self, store: AdapterStore, tmp_path: Path
    ) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text('{"instruction": "a", "response": "b"}\n')
        kept = store.datasets.put("acme", file, display_name="rows", format="jsonl", rows=1)
        store.datasets.delete("acme", kept.id, **WHO)
        with pytest.raises(NotFound):
            store.datasets.get("acme", kept.id)
        with pytest.raises(NotFound):
            store.datasets.delete("acme", kept.id, **WHO)
        assert store.datasets.list("acme").items == []
        assert store.datasets.read("acme", kept.id) == kept
        assert store.datasets.fetch("acme", kept.id, tmp_path / "out").read_bytes() == file.read_bytes()
        assert store.datasets.put("acme", file, display_name="again", format="jsonl", rows=1) == kept
        assert store.datasets.list("acme").items == [kept]

    def test_a_tenants_settings_change_one_by_one(self, store: AdapterStore, url: str) -> None:
        store.tenants.update("acme", weight=3, limits={"concurrency": 2})
        changed = store.tenants.update("acme", limits={"queue_length": 7}, expected=2)
        assert changed.limits == TenantLimits(concurrency=2, queue_length=7)
        assert (changed.weight, changed.number) == (3, 3)
        assert store.tenants.update("acme", weight=3) == changed, "nothing to change is no record"
        assert open_store(url).tenants.get("acme") == changed
        with pytest.raises(VersionConflict) as lost:
            store.tenants.update("acme", weight=4, expected=2)
        assert lost.value.current == 3
        for wrong in ({"weight": 0}, {"weight": 1001}, {"limits": {"concurrency": -1}}, {"limits": {"typo": 1}}):
            with pytest.raises(InvalidLimit):
                store.tenants.update("acme", **wrong)  # type: ignore[arg-type]

    def test_a_disabled_tenants_key_is_refused_until_it_is_enabled(self, store: AdapterStore) -> None:
        secret = store.tenants.issue_key("acme", "").secret
        store.tenants.update("acme", disabled=True)
        with pytest.raises(TenantDisabled):
            store.tenants.authenticate(secret)
        store.tenants.update("acme", disabled=False)
        assert store.tenants.authenticate(secret).tenant == "acme"
