"""The audit log's chains: an entry that was changed, removed, moved or added is found and named, and no sound one is blamed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_store import documents, layout
from adapter_store.audit import Audit, AuditEntry, Verdict
from adapter_store.audit_chain import ProblemKind
from adapter_store.audit_outbox import Outbox, leave
from adapter_store.backends.filesystem import FilesystemBackend
from tests.unit.store.test_store_audit import entry

COUNT = 6


class World:
    """A store with COUNT entries of one writer, numbers 1 to COUNT, and the writer's outbox."""

    def __init__(self, root: Path) -> None:
        self.root, self.backend = root, FilesystemBackend(root / "store")
        self.audit = Audit(self.backend)
        self.outbox = Outbox(self.audit, root / "out")
        for number in range(1, COUNT + 1):
            self.write(entry(number))

    def write(self, one: AuditEntry) -> None:
        self.outbox.end(one)
        assert self.outbox.flush(30)

    def restart(self) -> None:
        self.outbox.close(10)
        self.outbox = Outbox(self.audit, self.root / "out")
        assert self.outbox.flush(30)

    def files(self) -> dict[int, Path]:
        """The stored entries by their number."""
        found = (self.root / "store").rglob("v1/audit/*/*.json")
        return {json.loads(path.read_bytes())["body"]["number"]: path for path in found}

    def name(self, number: int) -> str:
        path = self.files()[number]
        return f"{path.parent.name}/{path.name}"

    def verify(self) -> Verdict:
        return self.audit.verify(self.outbox.head)

    def problems(self) -> list[tuple[str, int, str]]:
        return [(problem.kind.value, problem.number, problem.name) for problem in self.verify().problems]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.outbox.close(10)


def rewrite(path: Path, **fields: Any) -> None:
    """Changes an entry and makes its checksum fit, as one who knows the format would."""
    body = json.loads(path.read_bytes())["body"] | fields
    checksum = hashlib.sha256(documents.canonical(body)).hexdigest()
    path.write_bytes(documents.canonical({"body": body, "sha256": checksum}))


def test_a_sound_log_has_no_problem_and_its_writer_vouches_for_it(world: World) -> None:
    world.audit.append(entry(40, action="ReleaseHold"))
    verdict = world.verify()
    assert (verdict.entries, verdict.unchained, list(verdict.problems)) == (COUNT + 1, 1, [])
    (chain,) = verdict.chains
    assert (chain.number, chain.vouched, chain.service) == (COUNT, True, "RegistryService on here")
    (chain,) = world.audit.verify().chains
    assert not chain.vouched, "another process cannot know whether the end is there"


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_a_changed_entry_is_found_and_no_other_is_blamed(world: World, number: int) -> None:
    name = world.name(number)
    rewrite(world.files()[number], actor="somebody else")
    assert world.problems() == [("changed", number, name)]


@pytest.mark.parametrize("number", [1, 3, COUNT])
def test_a_damaged_entry_is_found_once(world: World, number: int) -> None:
    name, path = world.name(number), world.files()[number]
    path.write_bytes(path.read_bytes().replace(b"SetAlias", b"SetAlien"))
    assert world.problems() == [("changed", number, name)]
    path.write_bytes(b"nonsense")
    kinds = {(kind, where) for kind, _, where in world.problems()}
    assert kinds == {("changed", name), ("removed", "")}, "it does not even say which number it had"


@pytest.mark.parametrize("number", [1, 3, COUNT])
def test_a_removed_entry_is_found(world: World, number: int) -> None:
    world.files()[number].unlink()
    assert world.problems() == [("removed", number, "")]
    (problem,) = world.verify().problems
    neighbour = world.name(number + 1 if number < COUNT else number - 1)
    assert neighbour in problem.text


def test_many_removed_ones_are_one_row_and_a_whole_chain_is_missed(world: World) -> None:
    for number in (2, 3, 4):
        world.files()[number].unlink()
    (problem,) = world.verify().problems
    assert (problem.kind, problem.number, problem.last) == (ProblemKind.REMOVED, 2, 4)
    for path in world.files().values():
        path.unlink()
    (problem,) = world.verify().problems
    assert (problem.number, problem.last) == (1, COUNT)


def test_an_end_that_was_cut_off_is_only_known_to_the_writer(world: World) -> None:
    world.files()[COUNT].unlink()
    assert not world.audit.verify().problems
    assert world.problems() == [("removed", COUNT, "")]
    world.write(entry(20))
    assert [problem.number for problem in world.audit.verify().problems] == [COUNT], "and to all once it goes on"


def test_a_chain_that_was_written_anew_to_its_end_does_not_fit_its_writers_place(world: World) -> None:
    previous = ""
    for number in range(1, COUNT + 1):
        path = world.files()[number]
        rewrite(path, previous=previous, reason="innocent")
        previous = json.loads(path.read_bytes())["sha256"]
    assert not world.audit.verify().problems
    assert world.problems()[-1] == ("changed", COUNT, world.name(COUNT))


def test_entries_in_each_others_places_are_found(world: World) -> None:
    one, two = world.files()[2], world.files()[4]
    names = {world.name(2), world.name(4)}
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    moved = {where for kind, _, where in world.problems() if kind == "moved"}
    assert moved == names


def test_an_entry_that_was_given_another_time_is_found(world: World) -> None:
    path = world.files()[3]
    later = entry(30).at
    rewrite(path, at=later.isoformat().replace("+00:00", "Z"))
    body = json.loads(path.read_bytes())["body"]
    place = world.root / "store" / layout.audit_entry(later, body["tenant"], body["id"])
    place.parent.mkdir(exist_ok=True)
    path.rename(place)
    assert world.problems() == [("changed", 3, f"{place.parent.name}/{place.name}")]


def test_entries_that_changed_their_numbers_are_found(world: World) -> None:
    files, names = world.files(), (world.name(2), world.name(3))
    rewrite(files[2], number=3)
    rewrite(files[3], number=2)
    found = world.problems()
    assert {where for _, _, where in found} == set(names)


def test_an_entry_that_its_writer_did_not_write_is_found(world: World) -> None:
    head = world.outbox.head()
    forged = entry(25).model_copy(
        update={"writer": head.writer, "number": head.number + 1, "previous": head.digest, "actor": "operator bob"}
    )
    assert world.audit.append(forged)
    assert [(kind, number) for kind, number, _ in world.problems()] == [("added", COUNT + 1)]
    world.write(entry(26))
    (problem,) = world.verify().problems
    assert problem.kind is ProblemKind.ADDED
    assert layout.audit_entry(forged.at, forged.tenant, forged.id).endswith(problem.name)


def test_a_chain_goes_on_after_a_restart_and_entries_of_old_are_in_none(world: World) -> None:
    old = json.loads((path := world.files()[1]).read_bytes())["body"]
    del old["writer"], old["number"], old["previous"]
    world.restart()
    world.write(entry(8))
    (chain,) = world.verify().chains
    assert (chain.number, world.problems()) == (COUNT + 1, [])
    path.write_bytes(documents.canonical({"body": old, "sha256": hashlib.sha256(documents.canonical(old)).hexdigest()}))
    assert world.verify().unchained == 1


def test_a_process_that_was_killed_between_the_store_and_its_place_breaks_nothing(world: World) -> None:
    """The entry is in the store, its place on disk is the one before, and the entry still lies in the folder."""
    place = (world.root / "out/chain").read_bytes()
    world.write(one := entry(9))
    world.outbox.close(10)
    stored = next(item for item in world.audit.page().items if item.id == one.id)
    (world.root / "out/chain").write_bytes(place)
    (world.root / f"out/{one.id}.json").write_bytes(documents.encode(stored))
    (world.root / f"out/{'0' * 16}.json").write_bytes(
        documents.encode(entry(7).model_copy(update={"id": "0" * 16, "outcome": "unknown"}))
    )
    world.restart()
    world.write(entry(10))
    (chain,) = world.verify().chains
    assert (chain.number, world.problems()) == (COUNT + 3, [])


def test_a_disk_that_takes_nothing_ends_a_chain_and_blames_nobody(world: World) -> None:
    shutil.rmtree(world.root / "out")
    (world.root / "out").write_text("no folder any more")
    world.write(entry(9))
    world.write(entry(10))
    assert world.problems() == []
    (world.root / "out").unlink()
    world.restart()
    world.write(entry(11))
    verdict = world.verify()
    assert not verdict.problems
    assert sorted(chain.number for chain in verdict.chains) == [1, COUNT + 2]


def test_what_another_process_leaves_takes_its_place_in_the_chain_once(world: World) -> None:
    for _ in range(2):  # a job's attempt may be repeated
        leave(world.root / "out", entry(12).model_copy(update={"id": "0" * 16}))
        assert world.outbox.flush(30)
    world.write(entry(13))
    (chain,) = world.verify().chains
    assert (chain.number, world.problems()) == (COUNT + 2, [])
    leave(world.root / "out", one := entry(14))
    world.restart()
    assert world.audit.page().items[0].id == one.id


class Reading(FilesystemBackend):
    """Does something when a day's entries are first listed."""

    act: Callable[[], None] | None = None

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        if self.act and prefix != layout.AUDIT:
            act, self.act = self.act, None
            act()
        return super().children(prefix, after=after, limit=limit)


def test_entries_that_come_during_a_look_are_no_problem(tmp_path: Path) -> None:
    """The first one is newer than where the look has come to, and its follower, begun long ago, is older."""
    world = World(tmp_path)
    world.write(entry(0))  # of the day before, which is listed last
    backend = Reading(tmp_path / "store")

    def come() -> None:
        world.write(entry(50))
        world.write(entry(-1))

    backend.act = come
    verdict = Audit(backend).verify(world.outbox.head)
    world.outbox.close(10)
    assert (verdict.entries, list(verdict.problems)) == (COUNT + 3, [])
    assert backend.act is None


def test_where_nobody_vouches_the_two_that_do_not_fit_are_both_named(world: World) -> None:
    rewrite(world.files()[COUNT - 1], actor="somebody else")
    (problem,) = world.audit.verify().problems
    assert problem.name == world.name(COUNT)
    assert world.name(COUNT - 1) in problem.text
    assert world.problems() == [("changed", COUNT - 1, world.name(COUNT - 1))], "its writer knows which"
