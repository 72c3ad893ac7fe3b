"""How aliases are to be served, on every backend; inherited, not run by itself."""

import hashlib
import json
from pathlib import Path

import pytest

from adapter_store import AdapterStore, BaseInfo, documents, layout
from adapter_store.documents import canonical
from adapter_store.errors import CorruptRecord, InvalidRoute, NotFound, RequestIdReused, VersionConflict
from adapter_store.manifest import AliasRecord
from adapter_store.numbered_log import NumberedLog
from tests.contract.backend_contract import Raw
from tests.contract.repeat_contract import ALIAS, WHO, asked
from tests.contract.store_contract import MADE, StoreFixtures
from tests.store_samples import make_adapter

RECORD = layout.alias_log(*ALIAS) + "9999999998-1.json"


class RouteContract(StoreFixtures):
    """Subclasses give `raw` and `url`."""

    @pytest.fixture
    def versions(self, store: AdapterStore, base: BaseInfo, tmp_path: Path) -> list[str]:
        made = [make_adapter(tmp_path / f"v{seed}", seed) for seed in range(3)]
        return [store.versions.publish("acme", "greeter", folder, base=base, made=MADE).version for folder in made]

    def test_the_route_stays_whatever_the_alias_points_at(self, store: AdapterStore, versions: list[str]) -> None:
        one, two, three = versions
        assert store.aliases.set(*ALIAS, one, **WHO).route == "swapped"
        policy = store.aliases.set_route(*ALIAS, "merged", expected=1, **WHO)
        assert (policy.number, policy.version, policy.route) == (2, one, "merged")
        assert store.aliases.set(*ALIAS, two, **WHO).route == "merged"
        assert store.aliases.split(*ALIAS, {two: 1, three: 9}, **WHO).route == "merged"
        assert [target.route for target in store.targets("acme", "greeter")] == ["merged", "merged"]
        assert store.aliases.roll_back(*ALIAS, **WHO).route == "merged"
        swapped = store.aliases.set_route(*ALIAS, "swapped", **WHO)
        assert store.aliases.set_route(*ALIAS, "swapped", **WHO) == swapped, "nothing to write"
        assert [record.route[0] for record in store.aliases.history(*ALIAS)] == list("smmmms")
        assert store.aliases.list("acme", "greeter") == (swapped,)

    def test_a_version_that_was_named_itself_is_swapped(self, store: AdapterStore, versions: list[str]) -> None:
        store.aliases.set(*ALIAS, versions[0], **WHO)
        store.aliases.set_route(*ALIAS, "merged", **WHO)
        (named,) = store.targets("acme", "greeter", version=versions[0])
        (pointed,) = store.targets("acme", "greeter")
        assert (named.route, pointed.route) == ("swapped", "merged")
        assert named.manifest == pointed.manifest

    def test_a_split_keeps_its_shares_and_a_roll_back_its_place(self, store: AdapterStore, versions: list[str]) -> None:
        one, two, three = versions
        for version in (one, two, three):
            store.aliases.set(*ALIAS, version, **WHO)
        assert store.aliases.roll_back(*ALIAS, **WHO).version == two
        store.aliases.set_route(*ALIAS, "merged", **WHO)
        assert store.aliases.roll_back(*ALIAS, **WHO).version == one, "not three, which was rolled back itself"
        split = store.aliases.split(*ALIAS, {one: 1, two: 2}, **WHO)
        changed = store.aliases.set_route(*ALIAS, "swapped", **WHO)
        assert (changed.shares, changed.version) == (split.shares, split.version)

    def test_a_removed_alias_has_no_route_and_begins_anew(self, store: AdapterStore, versions: list[str]) -> None:
        with pytest.raises(NotFound):
            store.aliases.set_route(*ALIAS, "merged", **WHO)
        store.aliases.set(*ALIAS, versions[0], **WHO)
        store.aliases.set_route(*ALIAS, "merged", **WHO)
        store.aliases.remove(*ALIAS, **WHO)
        with pytest.raises(NotFound):
            store.aliases.set_route(*ALIAS, "merged", **WHO)
        assert store.aliases.set(*ALIAS, versions[0], **WHO).route == "swapped"

    @pytest.mark.parametrize("route", ["", "Merged", "fast", "base", "merged\n", "x" * 10_000])
    def test_unknown_routes_are_refused(self, store: AdapterStore, versions: list[str], route: str) -> None:
        store.aliases.set(*ALIAS, versions[0], **WHO)
        with pytest.raises(InvalidRoute, match="swapped, merged or auto") as refused:
            store.aliases.set_route(*ALIAS, route, **WHO)
        assert len(str(refused.value)) < 200
        assert len(store.aliases.history(*ALIAS)) == 1

    def test_expected_numbers_and_request_ids_count(self, store: AdapterStore, versions: list[str]) -> None:
        store.aliases.set(*ALIAS, versions[0], **WHO)
        with pytest.raises(VersionConflict) as lost:
            store.aliases.set_route(*ALIAS, "merged", expected=7, **WHO)
        assert lost.value.current == 1
        made = store.aliases.set_route(*ALIAS, "merged", expected=1, request=asked("r1", "merged"), **WHO)
        store.aliases.set_route(*ALIAS, "swapped", **WHO)
        assert store.aliases.set_route(*ALIAS, "merged", expected=1, request=asked("r1", "merged"), **WHO) == made
        with pytest.raises(RequestIdReused):
            store.aliases.set_route(*ALIAS, "merged", request=asked("r1", "other"), **WHO)
        assert store.aliases.get(*ALIAS).route == "swapped"

    def test_a_latency_target_goes_with_the_route_auto(self, store: AdapterStore, versions: list[str]) -> None:
        one, two, _ = versions
        store.aliases.set(*ALIAS, one, **WHO)
        made = store.aliases.set_route(*ALIAS, "auto", first_token_ms=200, between_tokens_ms=30, **WHO)
        assert (made.number, made.route, made.target.first_token_ms, made.target.between_tokens_ms) == (
            2,
            "auto",
            200,
            30,
        )
        assert store.aliases.set_route(*ALIAS, "auto", first_token_ms=200, between_tokens_ms=30, **WHO) == made
        moved = store.aliases.set(*ALIAS, two, **WHO)
        assert (moved.route, moved.target) == ("auto", made.target)
        (target,) = store.targets("acme", "greeter")
        assert (target.route, target.latency) == ("auto", made.target)
        changed = store.aliases.set_route(*ALIAS, "auto", first_token_ms=300, **WHO)
        assert (changed.number, changed.target.first_token_ms, changed.target.between_tokens_ms) == (4, 300, 0)
        assert store.aliases.set_route(*ALIAS, "merged", **WHO).target.first_token_ms == 0

    @pytest.mark.parametrize(("route", "ms"), [("merged", 10), ("swapped", 1), ("auto", -1), ("auto", 3_600_001)])
    def test_targets_that_cannot_be_are_refused(
        self, store: AdapterStore, versions: list[str], route: str, ms: int
    ) -> None:
        store.aliases.set(*ALIAS, versions[0], **WHO)
        for field in ("first_token_ms", "between_tokens_ms"):
            with pytest.raises(InvalidRoute, match=field):
                store.aliases.set_route(*ALIAS, route, **{field: ms}, **WHO)
        assert len(store.aliases.history(*ALIAS)) == 1

    @pytest.mark.parametrize("first", ["route", "move"])
    def test_a_route_and_a_move_that_race_both_hold(
        self, store: AdapterStore, versions: list[str], monkeypatch: pytest.MonkeyPatch, first: str
    ) -> None:
        """The one overtakes the other, which has read the alias already."""
        one, two, _ = versions
        store.aliases.set(*ALIAS, one, **WHO)
        changes = [
            lambda: store.aliases.set_route(*ALIAS, "merged", **WHO),
            lambda: store.aliases.set(*ALIAS, two, **WHO),
        ]
        slow, fast = changes if first == "route" else reversed(changes)
        append = NumberedLog.append

        def late(log: NumberedLog, record: AliasRecord) -> AliasRecord:
            monkeypatch.setattr(NumberedLog, "append", append)
            fast()
            return append(log, record)

        monkeypatch.setattr(NumberedLog, "append", late)
        slow()
        record = store.aliases.get(*ALIAS)
        assert (record.number, record.version, record.route) == (3, two, "merged")

    def test_records_from_before_routes_are_swapped(self, store: AdapterStore, versions: list[str], raw: Raw) -> None:
        record = store.aliases.set(*ALIAS, versions[0], **WHO)
        self._rewrite(raw, lambda body: body.pop("route"))
        assert store.aliases.get(*ALIAS) == record
        assert [target.route for target in store.targets("acme", "greeter")] == ["swapped"]
        assert store.aliases.set_route(*ALIAS, "merged", expected=1, **WHO).number == 2

    def test_a_route_that_a_later_release_wrote_is_an_error_that_says_so(
        self, store: AdapterStore, versions: list[str], raw: Raw
    ) -> None:
        store.aliases.set(*ALIAS, versions[0], **WHO)
        self._rewrite(raw, lambda body: body.update(route="teleported"))
        with pytest.raises(CorruptRecord, match=r"\(route\); upgrade"):
            store.aliases.get(*ALIAS)

    def _rewrite(self, raw: Raw, change) -> None:
        data = raw.get(RECORD)
        assert data
        assert documents.decode(AliasRecord, data, "the record").number == 1
        body = json.loads(data)["body"]
        change(body)
        digest = hashlib.sha256(canonical(body)).hexdigest()
        raw.put(RECORD, canonical({"body": body, "sha256": digest}))
