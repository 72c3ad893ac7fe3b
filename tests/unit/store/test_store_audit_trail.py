"""Which calls get an entry, and that one which lacks its details is still there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_store import AdapterStore, open_store
from adapter_store.api.audit_registry import registry_tellers
from adapter_store.api.audit_trail import REFUSED_PER_MINUTE, AuditTrail, Done, Told
from graftwork.operator_keys import parse
from graftwork.rpc.audit import Attempt
from graftwork.rpc.auth import Principal, Role
from graftwork.v1 import registry_pb2 as pb

ACME = Principal(Role.TENANT, "acme", "0" * 16)
BLOOM = Principal(Role.TENANT, "bloom", "1" * 16)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trail(store: AdapterStore, tmp_path: Path, clock: Clock) -> Iterator[AuditTrail]:
    def broken(call: Done) -> Told:
        raise RuntimeError("a defect of ours")

    made = AuditTrail(store, tmp_path / "outbox", registry_tellers(store) | {"DeleteDataset": broken}, clock=clock)
    yield made
    made.close()


def make(trail: AuditTrail, outcome: str, who: Principal = ACME, method: str = "SignVersion") -> None:
    begun = trail.begin(Attempt(who, f"/graftwork.v1.RegistryService/{method}", "10.0.0.1", "r"), None)
    trail.end(begun, outcome, pb.DeleteDatasetRequest(name="tenants/acme/datasets/d"), pb.Deletion())


def outcomes(trail: AuditTrail, store: AdapterStore) -> list[str]:
    assert trail.flush(60)
    return [entry.outcome for entry in store.audit.page(1000).items]


def test_a_flood_of_refusals_gets_few_entries_and_costs_nobody_else_one(
    trail: AuditTrail, store: AdapterStore, clock: Clock, tmp_path: Path
) -> None:
    for _ in range(REFUSED_PER_MINUTE + 20):
        make(trail, "not_found")
    assert outcomes(trail, store) == ["not_found"] * REFUSED_PER_MINUTE
    make(trail, "not_found", BLOOM)
    clock.now += 1
    make(trail, "not_found")
    make(trail, "not_found")
    assert len(outcomes(trail, store)) == REFUSED_PER_MINUTE + 2
    assert list((tmp_path / "outbox").glob("*.json")) == [], "what got no entry is not left behind"


@pytest.mark.parametrize("outcome", ["cancelled", "internal", "unavailable", "deadline"])
def test_what_may_have_been_carried_out_always_gets_one(trail: AuditTrail, store: AdapterStore, outcome: str) -> None:
    for _ in range(REFUSED_PER_MINUTE):
        make(trail, "not_found")
    make(trail, outcome)
    assert outcomes(trail, store).count(outcome) == 1


def test_an_entry_without_its_details_is_there_and_says_so(trail: AuditTrail, store: AdapterStore) -> None:
    make(trail, "ok", method="DeleteDataset")
    assert trail.flush(60)
    (entry,) = store.audit.page().items
    assert (entry.outcome, entry.target, entry.tenant) == ("ok", "tenants/acme/datasets/d", "acme")
    assert [(change.field, change.after) for change in entry.changes] == [("details", "not known: RuntimeError")]


def test_an_entry_about_anothers_thing_is_its_callers_own(trail: AuditTrail, store: AdapterStore) -> None:
    make(trail, "not_found", BLOOM)
    assert trail.flush(60)
    (entry,) = store.audit.page().items
    assert (entry.tenant, entry.target) == ("bloom", "tenants/acme/datasets/d")


def test_a_changed_key_file_tells_who_came_and_who_went(trail: AuditTrail, store: AdapterStore) -> None:
    before, _ = parse("gwop_a\ngwop_b operator alice\n")
    after, _ = parse("gwop_a\ngwop_b viewer alice\ngwop_c viewer screen\n")
    trail.keys_changed(before, before)
    trail.keys_changed(before, after)
    assert trail.flush(60)
    (entry,) = store.audit.page().items
    assert [(change.before, change.after) for change in entry.changes] == [
        ("operator alice", "viewer alice"),
        ("", "viewer screen"),
    ]
