"""Changes that come twice, because their first answer was lost, on every backend; inherited, not run by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_store import AdapterStore, BaseInfo, VersionManifest, open_store
from adapter_store.errors import AlreadyExists, InUse, InvalidKey, NotFound, RequestIdReused, VersionConflict
from adapter_store.idempotency import REMEMBERED, Request, request
from adapter_store.numbered_log import NumberedLog
from tests.contract.store_contract import MADE, StoreFixtures
from tests.store_samples import make_adapter

WHO = {"by": "tests", "reason": "because"}
ALIAS = ("acme", "greeter", "prod")


def asked(request_id: str, content: str = "") -> Request:
    made = request(request_id, content.encode())
    assert made is not None
    return made


class RepeatContract(StoreFixtures):
    """Subclasses give `raw` and `url`. Each repeat is made by another process's view of the store: nothing is kept in memory."""

    @pytest.fixture
    def versions(self, store: AdapterStore, base: BaseInfo, tmp_path: Path) -> list[VersionManifest]:
        return [
            store.versions.publish("acme", "greeter", make_adapter(tmp_path / f"v{seed}", seed), base=base, made=MADE)
            for seed in range(3)
        ]

    @pytest.fixture
    def again(self, url: str, store: AdapterStore) -> AdapterStore:
        return open_store(url)

    def test_a_move_is_made_once_and_its_repeat_moves_nothing_back(
        self, store: AdapterStore, again: AdapterStore, versions: list[VersionManifest]
    ) -> None:
        one, two, _ = (version.version for version in versions)
        moved = store.aliases.set(*ALIAS, one, expected=0, request=asked("r1"), **WHO)
        store.aliases.set(*ALIAS, two, **WHO)
        for expected in (0, None):
            assert again.aliases.set(*ALIAS, one, expected=expected, request=asked("r1"), **WHO) == moved
        assert [record.version for record in again.aliases.history(*ALIAS)] == [two, one]

    @pytest.mark.parametrize("change", ["split", "roll_back", "set_route", "remove"])
    def test_every_change_of_an_alias_is_made_once(
        self, store: AdapterStore, again: AdapterStore, versions: list[VersionManifest], change: str
    ) -> None:
        one, two, three = (version.version for version in versions)
        for version in (one, two, three):
            store.aliases.set(*ALIAS, version, **WHO)

        def make(aliases: object) -> object:
            rest = {"split": ({one: 1, two: 1},), "set_route": ("merged",)}.get(change, ())
            return getattr(aliases, change)(*ALIAS, *rest, expected=3, request=asked("r1"), **WHO)

        made = make(store.aliases)
        assert make(again.aliases) == made
        assert len(again.aliases.history(*ALIAS)) == 4
        if change == "roll_back":  # without the id, a second roll-back goes one further back
            assert again.aliases.roll_back(*ALIAS, **WHO).version == one

    def test_an_id_with_another_request_is_an_error(
        self, store: AdapterStore, again: AdapterStore, versions: list[VersionManifest]
    ) -> None:
        one, two, three = (version.version for version in versions)
        store.aliases.set(*ALIAS, one, request=asked("r1", "one"), **WHO)
        with pytest.raises(RequestIdReused, match="r1"):
            again.aliases.set(*ALIAS, two, request=asked("r1", "two"), **WHO)
        store.removal.delete_version("acme", "greeter", three, request=asked("r2", "one"), **WHO)
        with pytest.raises(RequestIdReused, match="r2"):
            again.removal.delete_version("acme", "greeter", three, request=asked("r2", "two"), **WHO)
        store.tenants.update("acme", weight=2, request=asked("r3", "one"))
        for change in (
            lambda: again.tenants.update("acme", weight=2, request=asked("r3", "two")),
            lambda: again.tenants.issue_key("acme", "", asked("r3", "two")),
            lambda: again.tenants.create("acme", asked("r3", "two")),
        ):
            with pytest.raises(RequestIdReused, match="r3"):
                change()
        assert again.tenants.get("acme").number == 2
        assert len(again.aliases.history(*ALIAS)) == 1

    def test_a_request_is_remembered_for_a_bounded_number_of_changes(
        self, store: AdapterStore, again: AdapterStore
    ) -> None:
        first = store.tenants.update("acme", weight=2, request=asked("first"))
        for number in range(REMEMBERED - 1):
            store.tenants.update("acme", weight=3 + number, request=asked(f"later-{number}"))
        assert again.tenants.update("acme", weight=2, request=asked("first")) == first
        store.tenants.update("acme", weight=1, request=asked("one-more"))
        assert again.tenants.update("acme", weight=2, request=asked("first")).number > first.number
        assert len(again.tenants.get("acme").requests) == REMEMBERED

    def test_the_same_request_twice_at_once_is_one_record(
        self, store: AdapterStore, again: AdapterStore, versions: list[VersionManifest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The repeat overtakes the first, which has looked at the alias already and expects what it saw."""
        append, target = NumberedLog.append, versions[0].version

        def late(log: NumberedLog, record: object) -> object:
            monkeypatch.setattr(NumberedLog, "append", append)
            again.aliases.set(*ALIAS, target, expected=0, request=asked("r1"), **WHO)
            return append(log, record)

        monkeypatch.setattr(NumberedLog, "append", late)
        assert store.aliases.set(*ALIAS, target, expected=0, request=asked("r1"), **WHO).number == 1
        assert len(store.aliases.history(*ALIAS)) == 1
        with pytest.raises(VersionConflict):
            store.aliases.set(*ALIAS, versions[1].version, expected=0, request=asked("r2"), **WHO)

    def test_a_tenant_is_made_once(self, store: AdapterStore, again: AdapterStore) -> None:
        made = store.tenants.create("bloom", asked("r1"))
        store.tenants.update("bloom", weight=5)
        assert again.tenants.create("bloom", asked("r1")) == made
        for other in (None, asked("r2")):
            with pytest.raises(AlreadyExists):
                again.tenants.create("bloom", other)

    def test_a_lost_key_is_revoked_and_another_one_issued(self, store: AdapterStore, again: AdapterStore) -> None:
        kept = store.tenants.issue_key("acme", "kept", asked("r0", "kept"))
        lost = [store.tenants.issue_key("acme", "phone", asked("r1", "phone")) for _ in range(2)]
        shown = again.tenants.issue_key("acme", "phone", asked("r1", "phone"))
        fresh = open_store_like(again)
        for issued in (kept, shown):
            assert fresh.tenants.authenticate(issued.secret).tenant == "acme"
        for issued in lost:
            with pytest.raises(InvalidKey):
                fresh.tenants.authenticate(issued.secret)
        names = [(key.display_name, key.revoked_at is None) for key in fresh.tenants.get("acme").keys]
        assert names == [("kept", True), ("phone", False), ("phone", False), ("phone", True)]

    def test_a_key_is_revoked_once(self, store: AdapterStore, again: AdapterStore) -> None:
        issued = store.tenants.issue_key("acme", "")
        revoked = store.tenants.revoke_key("acme", issued.record.id, asked("r1"))
        assert again.tenants.revoke_key("acme", issued.record.id, asked("r1")) == revoked

    def test_a_deletion_is_made_once_even_when_the_version_came_back(
        self,
        store: AdapterStore,
        again: AdapterStore,
        versions: list[VersionManifest],
        base: BaseInfo,
        tmp_path: Path,
    ) -> None:
        digest = versions[0].version
        delete: Callable[[AdapterStore], object] = lambda where: where.removal.delete_version(  # noqa: E731
            "acme", "greeter", digest, request=asked("r1"), **WHO
        )
        gone = delete(store)
        assert delete(again) == gone
        again.versions.publish("acme", "greeter", tmp_path / "v0", base=base, made=MADE)
        again.aliases.set(*ALIAS, digest, **WHO)
        assert delete(again) == gone
        assert again.versions.get("acme", "greeter", digest).version == digest
        with pytest.raises(InUse):
            again.removal.delete_version("acme", "greeter", digest, request=asked("r2"), **WHO)

    def test_a_deletion_that_lost_against_an_alias_is_no_deletion_to_its_repeat(
        self, store: AdapterStore, again: AdapterStore, versions: list[VersionManifest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest, append = versions[0].version, NumberedLog.append

        def late(log: NumberedLog, record: object) -> object:
            monkeypatch.setattr(NumberedLog, "append", append)
            again.aliases.set(*ALIAS, digest, **WHO)
            return append(log, record)

        monkeypatch.setattr(NumberedLog, "append", late)
        for where in (store, again):
            with pytest.raises(InUse):
                where.removal.delete_version("acme", "greeter", digest, request=asked("r1"), **WHO)
        assert again.versions.get("acme", "greeter", digest).version == digest

    def test_an_adapter_is_deleted_once_and_its_repeat_ends_what_was_begun(
        self,
        store: AdapterStore,
        again: AdapterStore,
        versions: list[VersionManifest],
        base: BaseInfo,
        tmp_path: Path,
    ) -> None:
        first = min(version.version for version in versions)
        delete: Callable[[AdapterStore], list[str]] = lambda where: [  # noqa: E731
            digest for digest, _ in where.removal.delete_adapter("acme", "greeter", request=asked("r1"), **WHO)
        ]
        # As a service does that is killed after the first of three.
        store.removal.delete_version("acme", "greeter", first, request=asked("r1"), **WHO)
        digests = sorted(version.version for version in versions)
        assert delete(again) == digests
        with pytest.raises(NotFound):
            again.adapters.get("acme", "greeter")
        later = again.versions.publish(
            "acme", "greeter", make_adapter(tmp_path / "later", 7), base=base, made=MADE
        ).version
        again.aliases.set(*ALIAS, later, **WHO)
        assert delete(store) == digests, "what came after the deletion is not its business"
        assert again.resolve("acme", "greeter").version == later

    def test_a_data_set_is_deleted_once(self, store: AdapterStore, again: AdapterStore, tmp_path: Path) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text('{"instruction": "a", "response": "b"}\n')
        kept = store.datasets.put("acme", file, display_name="rows", format="jsonl", rows=1)
        gone = store.datasets.delete("acme", kept.id, request=asked("r1"), **WHO)
        assert again.datasets.delete("acme", kept.id, request=asked("r1"), **WHO) == gone
        again.datasets.put("acme", file, display_name="rows", format="jsonl", rows=1)
        assert again.datasets.delete("acme", kept.id, request=asked("r1"), **WHO) == gone
        assert again.datasets.get("acme", kept.id) == kept


def open_store_like(store: AdapterStore) -> AdapterStore:
    """Another process's view of the same place: no key is remembered."""
    return AdapterStore(store.versions._backend)
