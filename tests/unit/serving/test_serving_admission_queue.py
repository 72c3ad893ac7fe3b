"""The invariants of admission's state, under random and under hostile orders of events."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from serving_service.core.admission_limits import AdmissionLimits, TenantPolicy
from serving_service.core.admission_queue import AdmissionQueue
from serving_service.core.errors import QueueFull, RateLimited
from serving_service.core.waiting_lines import State, Ticket

TENANTS = ("acme", "globex", "initech")
LIMITS = AdmissionLimits(running=4, newcomers=2, waiting=12, adapters=2, overtakes=3, overtake_seconds=10.0)
POLICIES = {
    "acme": TenantPolicy(weight=2),
    "globex": TenantPolicy(concurrency=2, queue_length=4),
    "initech": TenantPolicy(tokens_per_minute=600, requests_per_minute=60),
}


def nothing() -> None:
    """Nobody waits for this."""


class Floor:
    """A queue with the requests that are in it, as a caller sees them."""

    def __init__(self, limits: AdmissionLimits = LIMITS) -> None:
        self.limits, self.queue, self.now = limits, AdmissionQueue(limits), 0.0
        self.tickets: list[Ticket] = []
        self.served: Counter[str] = Counter()

    def arrive(
        self,
        tenant: str,
        adapter: str | None = None,
        tokens: int = 1,
        policy: TenantPolicy | None = None,
        loads: bool = False,
    ) -> Ticket:
        began: list[Ticket] = []
        woken = False

        def wake() -> None:
            nonlocal woken
            assert not woken, "woken twice"
            woken = True
            if began:
                self._began(began[0])

        ticket = self.queue.enter(
            tenant,
            policy or TenantPolicy(),
            self.now,
            adapter=adapter,
            input_tokens=tokens,
            loads=loads,
            wake=wake,
        )
        began.append(ticket)
        self.tickets.append(ticket)
        if woken:
            self._began(ticket)
        return ticket

    def _began(self, ticket: Ticket) -> None:
        if ticket.state is State.RUNNING:
            self.served[ticket.tenant] += ticket.input_tokens

    def serve(self, ticket: Ticket, tokens: int) -> None:
        self.queue.served(ticket, tokens, self.now)
        self.served[ticket.tenant] += 2 * tokens

    def finish(self, ticket: Ticket) -> None:
        """Ends a request whose prompt reached the engine."""
        self.queue.rendered(ticket, ticket.input_tokens, self.now)
        self.end(ticket)

    def end(self, ticket: Ticket) -> None:
        self.tickets.remove(ticket)
        self.queue.leave(ticket, self.now)

    def waiting(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state is State.WAITING]

    def running(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state is State.RUNNING]


class AdmissionMachine(RuleBasedStateMachine):
    """Arrivals, loads, tokens, ends and cancellations in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = Floor()

    @rule(
        tenant=st.sampled_from(TENANTS),
        adapter=st.sampled_from((None, "a", "b", "c")),
        tokens=st.integers(1, 50),
        loads=st.booleans(),
    )
    def arrive(self, tenant: str, adapter: str | None, tokens: int, loads: bool) -> None:
        with contextlib.suppress(RateLimited, QueueFull):
            self.floor.arrive(tenant, adapter and f"{tenant}/{adapter}", tokens, POLICIES[tenant], loads)

    @precondition(lambda self: self.floor.waiting())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.floor.waiting())))

    @precondition(lambda self: self.floor.running())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.floor.running())))

    @precondition(lambda self: self.floor.running())
    @rule(data=st.data(), tokens=st.integers(0, 40))
    def serve(self, data: st.DataObject, tokens: int) -> None:
        ticket = data.draw(st.sampled_from(self.floor.running()))
        self.floor.queue.loaded(ticket, self.floor.now)
        if not ticket.rendered:
            self.floor.queue.rendered(ticket, tokens + 1, self.floor.now)
        self.floor.serve(ticket, tokens)

    @rule(seconds=st.floats(0, 30))
    def time(self, seconds: float) -> None:
        self.floor.now += seconds

    def _end(self, ticket: Ticket) -> None:
        self.floor.end(ticket)
        self.floor.queue.leave(ticket, self.floor.now)  # a second time: nothing happens

    @invariant()
    def within_every_limit(self) -> None:
        running, waiting = self.floor.running(), self.floor.waiting()
        of_tenant = Counter(ticket.tenant for ticket in running)
        assert len(running) <= LIMITS.running + LIMITS.newcomers
        assert len({ticket.adapter for ticket in running if ticket.adapter}) <= LIMITS.adapters
        assert of_tenant["globex"] <= POLICIES["globex"].concurrency
        assert len(waiting) <= LIMITS.waiting
        assert sum(ticket.tenant == "globex" for ticket in waiting) <= POLICIES["globex"].queue_length
        assert (self.floor.queue.running, self.floor.queue.waiting) == (len(running), len(waiting))
        assert self.floor.queue.adapters == len({ticket.adapter for ticket in running if ticket.adapter})

    @invariant()
    def no_place_is_empty_for_nothing(self) -> None:
        """What could run does, unless its adapter makes room for another that waits, or is being loaded."""
        running, waiting = self.floor.running(), self.floor.waiting()
        hot = {ticket.adapter for ticket in running if ticket.adapter}
        of_tenant = Counter(ticket.tenant for ticket in running)
        weights = sum(POLICIES[tenant].weight for tenant in {ticket.tenant for ticket in running + waiting})
        for ticket in waiting:
            if 0 < POLICIES[ticket.tenant].concurrency <= of_tenant[ticket.tenant]:
                continue
            over, share = len(running) - LIMITS.running, LIMITS.running * POLICIES[ticket.tenant].weight / weights
            room = (
                over < 0
                or (not of_tenant[ticket.tenant] and over < LIMITS.newcomers)
                or (of_tenant[ticket.tenant] < share and over < LIMITS.newcomers / 2)
            )
            if not room:
                continue
            assert ticket.adapter is not None
            if ticket.adapter not in hot:
                assert len(hot) == LIMITS.adapters
            else:
                loading = any(one.adapter == ticket.adapter and one.loads and not one.rendered for one in running)
                assert loading or any(
                    other.adapter and other.adapter not in hot for other in waiting if other is not ticket
                )

    def teardown(self) -> None:
        """Ending what runs, oldest first, lets everybody run, and leaves nothing."""
        floor = self.floor
        for _ in range(len(floor.tickets) + 1):
            for ticket in floor.running()[:1]:
                self._end(ticket)
        assert not floor.running()
        assert not floor.waiting()
        assert (floor.queue.running, floor.queue.waiting, floor.queue.adapters) == (0, 0, 0)


def test_admission_holds_its_invariants() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        AdmissionMachine, settings=settings(max_examples=150, stateful_step_count=60)
    )


FLOODED = replace(LIMITS, running=6, newcomers=0, waiting=1000)


def flood(floor: Floor, sources: list[tuple[str, str]], depth: int) -> None:
    """Keeps `depth` requests of each source waiting, whatever is admitted."""
    have = Counter((ticket.tenant, ticket.adapter) for ticket in floor.waiting())
    for source in sources:
        while have[source] < depth:
            have[source] += floor.arrive(*source, tokens=5).state is State.WAITING


def ends_until(floor: Floor, holds: Callable[[], bool], refill: Callable[[], None], pick: Random) -> int:
    """Ends running requests, each fully served, until a condition holds; returns how many ended."""
    for count in itertools.count():
        if holds():
            return count
        assert count < 2000, "starved"
        # Hostile: the one that ends is any of the older half, so that late ones of a draining adapter take their time.
        half = floor.running()[: max(1, len(floor.running()) // 2)]
        ending = pick.choice(half)
        floor.serve(ending, 10)
        floor.finish(ending)
        refill()
    raise AssertionError


@pytest.mark.parametrize("in_flight", [0, 5], ids=["", "with turns in the engine"])
@pytest.mark.parametrize("own", [True, False], ids=["of the flooding tenant", "of another tenant"])
@pytest.mark.parametrize("slots", [1, 2, 4])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_hot_adapters_cannot_starve_a_cold_one(own: bool, slots: int, in_flight: int, seed: int) -> None:
    floor = Floor(replace(FLOODED, adapters=slots, in_flight=in_flight))
    hot = [("flood", f"flood/{number}") for number in range(slots)]
    flood(floor, hot, 5)
    cold = floor.arrive("flood" if own else "quiet", "cold")
    assert cold.state is State.WAITING
    ended = ends_until(floor, lambda: cold.state is State.RUNNING, lambda: flood(floor, hot, 5), Random(seed))
    # Each hot adapter overtakes its share, then one drains; hostile endings let the others pass it a few times meanwhile.
    assert ended <= slots * FLOODED.overtakes + 6 * FLOODED.running


@pytest.mark.parametrize("in_flight", [0, 5], ids=["", "with turns in the engine"])
@example(seed=12, adapters=10, slots=2, tenants=3)
@example(seed=5, adapters=12, slots=2, tenants=3)
@given(seed=st.integers(0, 2**32), adapters=st.integers(3, 12), slots=st.integers(1, 3), tenants=st.integers(1, 4))
@settings(max_examples=30)
def test_everybody_waiting_runs_after_a_bounded_number_of_ends(
    seed: int, adapters: int, slots: int, in_flight: int, tenants: int
) -> None:
    """Many adapters flood few slots, with few or many tenants: each request that waits at some moment runs."""
    floor = Floor(replace(FLOODED, adapters=slots, in_flight=in_flight))
    sources = [(f"t{number % tenants}", f"a{number}") for number in range(adapters)]
    flood(floor, sources, 2)
    waiting = floor.waiting()
    ended = ends_until(
        floor,
        lambda: all(ticket.state is not State.WAITING for ticket in waiting),
        lambda: flood(floor, sources, 2),
        Random(seed),
    )
    assert ended <= 2 * len(waiting) * (FLOODED.overtakes + FLOODED.running)


@pytest.mark.parametrize("in_flight", [0, 5], ids=["", "with turns in the engine"])
@given(
    seed=st.integers(0, 2**32),
    slots=st.integers(1, 3),
    others=st.integers(1, 6),
    history=st.sampled_from((20, 100, 400)),
)
@settings(max_examples=30)
def test_who_used_much_without_a_slot_still_gets_one(
    seed: int, slots: int, in_flight: int, others: int, history: int
) -> None:
    """A tenant floods the base and an adapter in flight, so its counter is far ahead of those who compete for slots only;
    its request on a cold adapter runs after a number of ends that does not depend on how long that went on."""
    floor = Floor(replace(FLOODED, adapters=slots, in_flight=in_flight))
    sources = [("t", "hot"), ("t", None), *((f"u{number % 2}", f"u{number}") for number in range(others))]
    flood(floor, sources, 2)
    for _ in range(history):
        ending = floor.running()[0]
        floor.serve(ending, 10)
        floor.finish(ending)
        flood(floor, sources, 2)
    cold = floor.arrive("t", "cold")
    ended = ends_until(floor, lambda: cold.state is State.RUNNING, lambda: flood(floor, sources, 2), Random(seed))
    assert ended <= 40 * (FLOODED.overtakes + FLOODED.running)


@pytest.mark.parametrize("seed", range(5))
def test_tenants_share_slots_fairly_however_many_adapters_they_have(seed: int) -> None:
    """Ten adapters of three tenants flood two slots: nobody keeps a slot, and each tenant is served its third."""
    floor, pick = Floor(replace(FLOODED, adapters=2)), Random(seed)
    sources = [(f"t{0 if number < 7 else number % 2 + 1}", f"a{number}") for number in range(10)]
    flood(floor, sources, 2)
    floor.served.clear()
    ends = iter(range(600))
    ends_until(floor, lambda: next(ends, None) is None, lambda: flood(floor, sources, 2), pick)
    assert max(floor.served.values()) <= 1.25 * min(floor.served.values())


def test_a_cold_adapter_waits_no_longer_than_the_overtaking_time() -> None:
    """Few but long requests overtake: then the time ends it, not their number."""
    floor = Floor(replace(FLOODED, adapters=1, overtakes=1000, overtake_seconds=2.0))
    hot = [("flood", "hot")]
    flood(floor, hot, 3)
    cold = floor.arrive("quiet", "cold")
    for _ in range(20):
        floor.finish(floor.running()[0])
        flood(floor, hot, 3)
    assert len(floor.running()) == FLOODED.running, "before the time is over the batch stays full"
    floor.now = 2.5
    for _ in range(FLOODED.running):
        floor.finish(floor.running()[0])
        flood(floor, hot, 3)
    assert cold.state is State.RUNNING


def test_a_drain_that_waits_for_a_long_answer_does_not_keep_others_hot() -> None:
    """The first adapter to drain has a request that hardly ends; then the next one drains, too."""
    floor = Floor(replace(FLOODED, adapters=2, overtakes=0, overtake_seconds=1.0))
    endless = floor.arrive("a", "endless", tokens=1000)  # so that its tenant is last in the fair order
    flood(floor, [("b", "hot")], 1)
    cold = floor.arrive("c", "cold")
    floor.arrive("a", "endless")

    def end_short_ones(count: int) -> None:
        for _ in range(count):
            if cold.state is State.WAITING:
                floor.finish(next(ticket for ticket in floor.running() if ticket is not endless))
                flood(floor, [("b", "hot")], 1)

    end_short_ones(20)
    assert cold.state is State.WAITING
    floor.now += 11
    end_short_ones(20)
    assert cold.state is State.RUNNING
    assert endless.state is State.RUNNING


def test_a_drain_that_nobody_needs_any_more_ends() -> None:
    floor = Floor(replace(FLOODED, adapters=1, overtakes=0))
    for _ in range(FLOODED.running):
        floor.arrive("flood", "hot")
    cold = floor.arrive("quiet", "cold")
    behind = floor.arrive("flood", "hot")
    floor.finish(floor.running()[0])
    assert behind.state is State.WAITING, "the hot adapter drains"
    floor.end(cold)
    assert behind.state is State.RUNNING


@given(
    data=st.data(),
    weights=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    adapters=st.booleans(),
    credit=st.integers(0, 5000),
)
@settings(max_examples=40)
def test_two_waiting_tenants_are_served_by_weight(
    data: st.DataObject, weights: tuple[int, int], adapters: bool, credit: int
) -> None:
    """The paper's bound: what two tenants that always wait were served differs by what can be in flight, whatever one of
    them had used before, and however much longer one's requests are."""
    longest_input, longest_answer, seats = 40, 30, 4
    limits = replace(FLOODED, running=seats, adapters=2)
    floor = Floor(limits)
    policies = {tenant: TenantPolicy(weight=weight) for tenant, weight in zip(("x", "y"), weights, strict=True)}
    early = floor.arrive("x", policy=policies["x"])
    floor.serve(early, credit)
    floor.finish(early)
    floor.served.clear()

    def refill() -> None:
        have = Counter(ticket.tenant for ticket in floor.waiting())
        for tenant, policy in policies.items():
            for _ in range(3 - have[tenant]):
                longest = longest_input if tenant == "x" else 4
                tokens = data.draw(st.integers(1, longest))
                floor.arrive(tenant, f"{tenant}/a" if adapters else None, tokens, policy)

    refill()
    floor.served.clear()
    bound = 2 * (longest_input + 2 * longest_answer) * (seats + 1)
    for _ in range(60):
        ending = data.draw(st.sampled_from(floor.running()))
        floor.serve(ending, data.draw(st.integers(0, longest_answer)))
        floor.finish(ending)
        refill()
        shares = [floor.served[tenant] / policy.weight for tenant, policy in policies.items()]
        assert abs(shares[0] - shares[1]) <= bound / min(weights)


def test_who_was_idle_has_no_credit() -> None:
    """A tenant that comes back gets its share from then on; it does not shut the others out until it has caught up."""
    floor = Floor(replace(FLOODED, running=1))
    floor.arrive("a")
    floor.finish(floor.running()[0])
    for _ in range(100):
        floor.arrive("b", tokens=100)
        floor.finish(floor.running()[0])
    for tenant in "baba":
        for _ in range(5):
            floor.arrive(tenant, tokens=100)
    began = []
    while floor.running():
        began.append(floor.running()[0].tenant)
        floor.finish(floor.running()[0])
    assert Counter(began[:10])["a"] == pytest.approx(5, abs=1)


def test_a_tenant_held_back_by_its_own_limit_saves_up_no_credit_for_others() -> None:
    """Newcomers start at the smallest counter of those who compete, not at that of one who may not run more."""
    floor = Floor(replace(FLOODED, running=2))
    slow = TenantPolicy(concurrency=1)
    held = floor.arrive("slow", policy=slow)
    floor.arrive("slow", policy=slow)
    for _ in range(50):
        floor.arrive("busy", tokens=100)
    for _ in range(30):
        floor.finish(next(ticket for ticket in floor.running() if ticket is not held))
    for _ in range(20):
        floor.arrive("new", tokens=100)
    began = []
    for _ in range(10):
        running = next(ticket for ticket in floor.running() if ticket is not held)
        began.append(running.tenant)
        floor.finish(running)
    assert Counter(began)["new"] == pytest.approx(5, abs=1)


def test_a_flood_cannot_fill_the_queue_for_others() -> None:
    floor = Floor(replace(LIMITS, running=1, newcomers=0, waiting=4))
    for _ in range(5):
        floor.arrive("flood")
    with pytest.raises(QueueFull) as refused:
        floor.arrive("flood")
    assert refused.value.retry_after_seconds
    newest = floor.waiting()[-1]
    quiet = floor.arrive("quiet")
    assert (newest.state, quiet.state) == (State.DISPLACED, State.WAITING)
    assert isinstance(newest.refusal, QueueFull)
    assert floor.queue.waiting == 4


def test_a_newcomer_need_not_wait_for_a_floods_end() -> None:
    """Places beyond the batch's are for tenants below their share, and the last ones for those of whom nothing runs."""
    floor = Floor(replace(LIMITS, newcomers=2))
    for _ in range(10):
        floor.arrive("flood")
    assert len(floor.running()) == LIMITS.running
    assert [floor.arrive("quiet").state for _ in range(2)] == [State.RUNNING, State.WAITING]
    assert floor.arrive("another").state is State.RUNNING
    assert len(floor.running()) == LIMITS.running + 2


def test_newcomers_are_those_below_their_share_beside_somebody_above_it() -> None:
    floor = Floor(replace(LIMITS, newcomers=2))
    assert not floor.arrive("flood").newcomer, "alone nobody takes anything from anybody"
    assert not floor.arrive("quiet").newcomer
    flood = [floor.arrive("flood") for _ in range(4)]
    assert not any(ticket.newcomer for ticket in flood)
    assert floor.arrive("another").newcomer
    assert not Floor(replace(LIMITS, fair=False)).arrive("quiet").newcomer


def test_a_flood_crowds_others_for_a_while_after_each_newcomer() -> None:
    floor = Floor(replace(LIMITS, newcomers=2))
    flood = [floor.arrive("flood") for _ in range(4)]
    assert not floor.queue.crowds(flood[0], floor.now), "alone nobody is in anybody's way"
    quiet = floor.arrive("quiet")
    assert quiet.newcomer
    assert floor.queue.crowds(flood[0], floor.now)
    assert not floor.queue.crowds(quiet, floor.now)
    floor.finish(quiet)
    floor.now += 9.0
    assert floor.queue.crowds(flood[0], floor.now), "more may come"
    floor.now += 2.0
    assert not floor.queue.crowds(flood[0], floor.now)
    floor.arrive("quiet")
    assert floor.queue.crowds(flood[0], floor.now)
    for ticket in list(floor.tickets):
        floor.end(ticket)
    floor.queue._tenants.clear()
    assert not floor.queue.crowds(flood[0], floor.now), "nobody knows it any more"


def test_with_most_places_free_nobody_crowds_others() -> None:
    floor = Floor(replace(LIMITS, running=16))
    busy = [floor.arrive("busy") for _ in range(5)]
    for number in range(3):
        newcomer = floor.arrive(f"t{number}")
    assert newcomer.newcomer, "5 are more than its share of 16 by then"
    assert not floor.queue.crowds(busy[0], floor.now)


def test_first_come_first_served_is_what_it_says() -> None:
    floor = Floor(replace(FLOODED, running=1, fair=False))
    tickets = [floor.arrive(tenant) for tenant in ("a", "a", "a", "b", "a", "b")]
    began = []
    while floor.running():
        began.append(floor.running()[0])
        floor.finish(began[-1])
    assert began == tickets


def test_nobody_sits_on_places_while_an_adapter_loads() -> None:
    """One request loads; the others follow when the adapter is there, or one of them takes over when it fails."""
    floor = Floor()
    loader, *others = [floor.arrive("acme", "acme/a", loads=True) for _ in range(3)]
    assert [loader.state, *(one.state for one in others)] == [State.RUNNING, State.WAITING, State.WAITING]
    floor.end(loader)
    assert [one.state for one in others] == [State.RUNNING, State.WAITING]
    floor.queue.loaded(others[0], floor.now)
    assert others[1].state is State.RUNNING


def test_memory_does_not_grow_with_all_who_ever_called() -> None:
    floor = Floor()
    for number in range(5000):
        floor.finish(floor.arrive(f"t{number}", tokens=3, policy=TenantPolicy(requests_per_minute=60)))
        floor.now += 1
    assert len(floor.queue._tenants) <= 2100
