"""Each judgement of a chaos run finds what it is there to find; one that cannot fail would make the run worthless."""

import os
from pathlib import Path

import pytest

from adapter_store import AdapterStore, Provenance, open_store, read_base
from tests.chaos import invariants
from tests.chaos.census import Census, Held, handle_leaks, memory_leaks, replaced
from tests.chaos.ledger import Generated, Ledger, Refused
from tests.store_samples import make_adapter, make_base

OWNER = ("acme", "tickets")
KNOWN = {"v1": {"hi": "one"}, "v2": {"hi": "two"}}


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    store = open_store((tmp_path / "store").as_uri())
    store.tenants.create(OWNER[0])
    return store


@pytest.fixture
def version(store: AdapterStore, tmp_path: Path) -> str:
    base, folder = read_base(make_base(tmp_path / "base")), make_adapter(tmp_path / "adapter")
    return store.versions.publish(*OWNER, folder, base=base, made=Provenance(made_by="tests")).version


def test_a_right_answer_passes_and_a_wrong_or_foreign_one_does_not() -> None:
    def judge(version: str, text: str) -> list[str]:
        return invariants.wrong_answers([Generated(OWNER, "hi", version, text)], {OWNER: ["v1"]}, KNOWN)

    assert judge("v1", "one") == []
    assert "wrong answer" in judge("v1", "two")[0]
    assert "not its own" in judge("v2", "two")[0]


def test_only_refusals_that_may_be_repeated_pass() -> None:
    assert invariants.dishonest_refusals([Refused("generate", "unavailable", "away", True)]) == []
    assert invariants.dishonest_refusals([Refused("generate", "not_found", "no such adapter", False)])


def test_a_version_that_is_gone_or_changed_is_lost(store: AdapterStore, version: str, tmp_path: Path) -> None:
    assert invariants.lost_versions(store, {(*OWNER, version)}) == []
    assert invariants.lost_versions(store, {(*OWNER, "0" * 64)})
    blob = max((tmp_path / "store").rglob("sha256/*"), key=lambda path: path.stat().st_size)
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    assert invariants.lost_versions(store, {(*OWNER, version)})


def test_a_move_that_is_not_in_the_history_is_lost(store: AdapterStore, version: str) -> None:
    moved = store.aliases.set(*OWNER, "prod", version, by="tests", reason="tests")
    assert invariants.lost_moves(store, {OWNER: [(moved.number, version)]}) == []
    assert invariants.lost_moves(store, {OWNER: [(moved.number + 1, version)]})
    assert invariants.lost_moves(store, {OWNER: [(moved.number, "0" * 64)]})


def test_a_gap_in_a_history_is_seen(store: AdapterStore, version: str, tmp_path: Path) -> None:
    for _ in range(3):
        store.aliases.set(*OWNER, "prod", version, by="tests", reason="tests")
        store.aliases.remove(*OWNER, "prod", by="tests", reason="tests")
    (first, *_) = sorted((tmp_path / "store").rglob("aliases/prod/*1.json"))
    first.unlink()
    assert invariants.lost_moves(store, {OWNER: []})


def test_damage_in_a_store_is_seen(store: AdapterStore, version: str, tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    assert invariants.damage(url, os.environ) == []
    max((tmp_path / "store").rglob("sha256/*"), key=lambda path: path.stat().st_size).unlink()
    assert invariants.damage(url, os.environ)


def test_what_is_half_made_or_too_much_or_temporary_is_a_leak(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    cache = home / "serving" / "cache"
    for folder in (cache, temporary):
        folder.mkdir(parents=True)
    (cache / "adapter").write_bytes(bytes(100))
    assert invariants.leftovers(home, temporary, 100) == []
    assert "budget" in invariants.leftovers(home, temporary, 99)[0]
    (temporary / "upload").write_bytes(b"x")
    assert "temporary" in invariants.leftovers(home, temporary, 100)[0]
    (home / "checkpoint-5.partial").mkdir()
    assert "half made" in invariants.leftovers(home, temporary, 100)[0]


def test_growth_and_replacement_are_told_from_what_stays() -> None:
    before: Census = {7: Held("serving service", 1 << 30, 50, 20)}
    assert memory_leaks(before, before) == handle_leaks(before, before) == replaced(before, before) == []
    assert memory_leaks(before, {7: Held("serving service", 2 << 30, 50, 20)})
    assert handle_leaks(before, {7: Held("serving service", 1 << 30, 500, 20)})
    assert handle_leaks(before, {7: Held("serving service", 1 << 30, 50, 200)})
    assert replaced(before, {8: before[7]}) == ["serving service"]


def test_a_check_that_cannot_be_made_does_not_hold() -> None:
    def fails() -> list[str]:
        raise TimeoutError("nobody answers")

    assert invariants.judged("x", fails) == ("x", ["could not be checked: TimeoutError: nobody answers"])


def test_a_run_without_load_does_not_pass_for_a_good_one() -> None:
    ledger = Ledger(
        [Generated(OWNER, "hi", "v1", "one")], [], {"j": OWNER}, {(*OWNER, "v1")}, {OWNER: [(1, "v1")]}, {"k": "acme"}
    )
    assert invariants.nothing_to_lose(ledger) == []
    ledger.jobs.clear()
    assert invariants.nothing_to_lose(ledger) == ["there were no jobs"]
