"""While the store is away one question a second reaches it, everybody else is answered at once, and the first answer ends it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from adapter_store.backends.filesystem import FilesystemBackend
from adapter_store.errors import InvalidKey, InvalidName, NotFound, StoreUnavailable
from adapter_store.inquiries import Inquiries
from adapter_store.outage import SHORT_S, Outage, Turn
from adapter_store.tenants import FRESH_S, Tenants


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage(clock)


def fail(outage: Outage, error: Exception) -> None:
    with pytest.raises(type(error)), outage.question():
        raise error


def refused(outage: Outage) -> bool:
    try:
        outage.end(outage.turn(), ValueError("says nothing about the store"))
    except StoreUnavailable:
        return True
    return False


def test_one_question_a_second_until_the_first_answer(outage: Outage, clock: Clock) -> None:
    assert outage.state.reachable
    fail(outage, StoreUnavailable("no route"))
    assert (outage.state.reachable, outage.state.cause) == (False, "no route")
    with pytest.raises(StoreUnavailable, match="no route"), outage.question():
        pytest.fail("the second question reached the store")
    clock.now += 1
    fail(outage, StoreUnavailable("still no route"))
    assert refused(outage)
    assert outage.state.cause == "still no route"
    clock.now += 1
    with outage.question():
        pass
    assert (outage.state.reachable, outage.state.cause) == (True, "")
    assert not refused(outage)


@pytest.mark.parametrize("error", [NotFound("x"), None])
def test_what_only_a_store_can_say_ends_it(outage: Outage, clock: Clock, error: Exception | None) -> None:
    fail(outage, StoreUnavailable("away"))
    clock.now += 1
    outage.end(outage.turn(), error)
    assert outage.state.reachable


@pytest.mark.parametrize("error", [InvalidName("x"), ValueError("x"), KeyboardInterrupt()])
def test_what_says_nothing_of_the_store_changes_nothing(outage: Outage, clock: Clock, error: BaseException) -> None:
    outage.end(outage.turn(), error)
    assert outage.state.reachable
    fail(outage, StoreUnavailable("away"))
    clock.now += 1
    outage.end(outage.turn(), error)
    assert not outage.state.reachable
    assert refused(outage), "its second is used up"
    clock.now += 1
    assert not refused(outage), "its turn was not given back"


def test_an_old_failure_does_not_undo_a_newer_answer(outage: Outage, clock: Clock) -> None:
    """Questions that a dead store held up fail after it came back."""
    slow = outage.turn()
    clock.now += 30
    with outage.question():
        pass
    outage.end(slow, StoreUnavailable("timed out"))
    assert outage.state.reachable


def test_any_history_keeps_the_promises() -> None:
    """Questions begin and end in any order, with any result."""

    class History(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.clock = Clock()
            self.outage = Outage(self.clock)
            self.open: list[Turn] = []
            self.away = False
            self.began: list[float] = []  # while the store was away
            self.newest = float("-inf")

        @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 7.0]))
        def wait(self, seconds: float) -> None:
            self.clock.now += seconds

        @rule()
        def ask(self) -> None:
            try:
                turn = self.outage.turn()
            except StoreUnavailable:
                assert self.away
                recent = any(self.clock.now - began < 1 for began in self.began)
                assert recent or any(turn.alone for turn in self.open), "somebody's turn was lost"
                return
            self.open.append(turn)
            if self.away:
                assert all(self.clock.now - began >= 1 for began in self.began)
                assert sum(turn.alone for turn in self.open) == 1
                self.began.append(self.clock.now)

        @precondition(lambda self: self.open)
        @rule(data=st.data(), result=st.sampled_from(["answer", "missing", "away", "nothing"]))
        def end(self, data: st.DataObject, result: str) -> None:
            turn = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            errors = {"answer": None, "missing": NotFound("x"), "away": StoreUnavailable("x"), "nothing": ValueError()}
            self.outage.end(turn, errors[result])
            if result == "nothing" or turn.began < self.newest:
                return  # it tells nothing, or was asked before what is known
            self.newest = turn.began
            if result != "away":
                self.away, self.began = False, []
            elif not self.away:
                self.away, self.began = True, [self.clock.now]

        @invariant()
        def says_so(self) -> None:
            assert self.outage.state.reachable is not self.away

    run_state_machine_as_test(History, settings=settings(max_examples=150, stateful_step_count=30))


def test_those_who_ask_the_same_at_once_share_one_question(outage: Outage) -> None:
    inquiries: Inquiries[str, int] = Inquiries(outage)
    gate, asked = threading.Event(), []

    def question() -> int:
        asked.append(1)
        assert gate.wait(20)
        return len(asked)

    flights = [inquiries.ask("acme", question) for _ in range(20)]
    flights[0].cancel()
    other = inquiries.ask("globex", lambda: 7)
    assert other.result(20) == 7, "another name does not wait"
    gate.set()
    assert [flight.result(20) for flight in flights] == [1] * 20
    assert inquiries.ask("acme", question).result(20) == 2, "what has ended is asked anew"


def test_nobody_waits_for_a_question_of_the_outage(outage: Outage, clock: Clock) -> None:
    """The one that is let through may hang for as long as the store's retries take; others of its name do not."""
    inquiries: Inquiries[str, int] = Inquiries(outage)
    fail(outage, StoreUnavailable("away"))
    clock.now += 1
    gate = threading.Event()
    held = inquiries.ask("acme", lambda: int(gate.wait(20)))
    for name in ("acme", "globex"):
        clock.now += 5
        with pytest.raises(StoreUnavailable, match="away"):
            inquiries.ask(name, lambda: pytest.fail("asked"))
    gate.set()
    assert held.result(20) == 1
    assert outage.state.reachable


def test_a_failure_is_told_to_all_and_forgotten(outage: Outage) -> None:
    inquiries: Inquiries[str, int] = Inquiries(outage)

    def broken() -> int:
        raise NotFound("nothing there")

    with pytest.raises(NotFound):
        inquiries.ask("acme", broken).result(20)
    assert inquiries.ask("acme", lambda: 1).result(20) == 1


class Gated(FilesystemBackend):
    """Counts, can be away, and can hold one answer back after it was read."""

    down = False
    lists = 0
    hold: threading.Event | None = None

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.held = threading.Event()

    def children(self, prefix: str, *, after: str = "", limit: int) -> list[str]:
        self.lists += 1
        if self.down:
            raise StoreUnavailable("down")
        found = super().children(prefix, after=after, limit=limit)
        hold, self.hold = self.hold, None
        if hold:
            self.held.set()
            assert hold.wait(20)
        return found


def wait_until_reachable(outage: Outage) -> None:
    deadline = time.monotonic() + 20
    while not outage.state.reachable:
        assert time.monotonic() < deadline
        time.sleep(0.001)  # what is waited for happens in a thread of the store's questions


def test_only_who_could_do_without_is_impatient(outage: Outage, clock: Clock) -> None:
    assert outage.patience(2.0) == 2.0
    outage.suspect()
    assert outage.patience(2.0) == SHORT_S
    assert outage.state.reachable, "slow is not away: what nobody knows is still asked for"
    assert not refused(outage)
    with outage.question():
        pass
    assert outage.patience(2.0) == 2.0
    fail(outage, StoreUnavailable("away"))
    assert outage.patience(2.0) == SHORT_S


def test_many_tenants_share_one_question_a_second(tmp_path: Path, clock: Clock) -> None:
    """Known keys go on being served, whoever asks; one tenant's answer ends the outage for all."""
    backend = Gated(tmp_path)
    outage = Outage(clock)
    tenants = Tenants(backend, clock, outage)
    secrets = []
    for number in range(10):
        tenants.create(f"t{number}")
        secrets.append(tenants.issue_key(f"t{number}", "ci").secret)
    backend.down, backend.lists = True, 0
    clock.now += 3600
    for _ in range(3):
        clock.now += 1
        for number, secret in enumerate(secrets):
            assert tenants.authenticate(secret).tenant == f"t{number}"
    assert backend.lists == 3
    unknown = Tenants(backend, clock, Outage(clock))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            unknown.authenticate(secrets[0])
    assert backend.lists == 4
    elsewhere = Tenants(FilesystemBackend(tmp_path))
    elsewhere.revoke_key("t3", elsewhere.list_keys("t3").items[0].id)
    backend.down = False
    clock.now += 1
    assert tenants.authenticate(secrets[0]).tenant == "t0"
    wait_until_reachable(outage)
    with pytest.raises(InvalidKey):
        tenants.authenticate(secrets[3])


def test_a_key_is_revoked_here_at_once_though_an_older_answer_is_under_way(tmp_path: Path, clock: Clock) -> None:
    backend = Gated(tmp_path)
    tenants = Tenants(backend, clock)
    tenants.create("acme")
    issued = tenants.issue_key("acme", "ci")
    clock.now += FRESH_S
    backend.hold = gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(tenants.authenticate, issued.secret)
        assert backend.held.wait(20)
        tenants.revoke_key("acme", issued.record.id)
        gate.set()
        with pytest.raises(InvalidKey):
            asking.result(20)


def test_a_key_is_recalled_without_the_store_only_while_its_record_is_fresh(tmp_path: Path, clock: Clock) -> None:
    backend = Gated(tmp_path)
    tenants = Tenants(backend, clock)
    tenants.create("acme")
    secret = tenants.issue_key("acme", "ci").secret
    backend.lists = 0
    recalled = tenants.recall(secret)
    assert recalled is not None
    assert recalled.tenant == "acme"
    for wrong in ("", "x", "gw_nobody_" + "0" * 48, secret[:-1] + ("0" if secret[-1] != "0" else "1")):
        assert tenants.recall(wrong) is None
    clock.now += FRESH_S
    assert tenants.recall(secret) is None
    tenants.set_disabled("acme", True)
    assert tenants.recall(secret) is None


def test_a_store_whose_folder_is_gone_is_away_and_not_empty(tmp_path: Path) -> None:
    """A disk that is not mounted must not turn every key into an unknown one."""
    backend = FilesystemBackend(tmp_path / "store")
    tenants = Tenants(backend)
    tenants.create("acme")
    secret = tenants.issue_key("acme", "ci").secret
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="not there"):
        Tenants(backend).authenticate(secret)
    with pytest.raises(StoreUnavailable, match="not there"):
        backend.entry("v1/x")
    with pytest.raises(StoreUnavailable, match="not there"):
        list(backend.read("v1/x"))
    with pytest.raises(StoreUnavailable, match="not there"):
        list(backend.walk("v1/"))
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    assert Tenants(backend).authenticate(secret).tenant == "acme"
