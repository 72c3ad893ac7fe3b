"""Turns on slots by themselves: what may compute in a step, whoever comes and goes."""

from hypothesis import given
from hypothesis import strategies as st

from serving_service.vllm_plugin.slot_turns import SlotTurns

ADAPTERS = 9
step = st.tuples(
    st.frozensets(st.integers(1, ADAPTERS)),
    st.lists(st.integers(1, ADAPTERS), unique=True, max_size=ADAPTERS),
)
"""Adapters that have requests, and those of requests that wait for their first token."""


@given(slots=st.integers(1, 4), steps=st.integers(1, 5), day=st.lists(step, max_size=60))
def test_never_more_adapters_than_slots_and_no_slot_is_idle(
    slots: int, steps: int, day: list[tuple[frozenset[int], list[int]]]
) -> None:
    turns = SlotTurns(slots, steps)
    for running, new in day:
        present = running | set(new)
        chosen = turns.choose(running, new)
        if len(present) <= slots:
            assert chosen is None
        else:
            assert chosen is not None
            assert len(chosen) == slots
            assert chosen <= present


@given(
    slots=st.integers(1, 4),
    steps=st.integers(1, 5),
    day=st.lists(step, min_size=1, max_size=8),
    repeats=st.integers(1, 40),
)
def test_whoever_has_requests_computes_again_within_the_bound(
    slots: int, steps: int, day: list[tuple[frozenset[int], list[int]]], repeats: int
) -> None:
    """Whatever the others do: here a day of theirs over and over, so that a pattern that starves somebody goes on."""
    turns = SlotTurns(slots, steps)
    bound = turns.longest_pause(ADAPTERS)
    without = dict.fromkeys(range(1, ADAPTERS + 1), 0)
    for running, new in day * repeats:
        present = running | set(new)
        chosen = turns.choose(running, new)
        for adapter in without:
            paused = adapter in present and chosen is not None and adapter not in chosen
            without[adapter] = without[adapter] + 1 if paused else 0
            assert without[adapter] <= bound


@given(newcomers=st.lists(st.lists(st.integers(3, 9), max_size=3), min_size=200, max_size=200))
def test_newcomers_take_at_most_every_other_step_of_a_turn(newcomers: list[list[int]]) -> None:
    """Those that run beside a stream of newcomers have their share, not a step now and then."""
    turns, computed = SlotTurns(2, 4), dict.fromkeys((1, 2), 0)
    for new in newcomers:
        chosen = turns.choose((1, 2), new)
        for adapter in computed:
            computed[adapter] += chosen is None or adapter in chosen
    # Turns of at most nine on two slots, each at most 2 * 4 steps long, of which 4 are its own.
    assert min(computed.values()) >= 200 // turns.longest_pause(9) * 4


def test_a_newcomer_computes_in_the_next_step_and_then_waits_for_its_turn() -> None:
    """And of the turns it is the one that began last that lends its slot."""
    turns = SlotTurns(2, 8)
    turns.choose((1,), ())
    turns.choose((1, 2), ())
    assert turns.choose((1, 2), (3,)) == {1, 3}
    assert turns.choose((1, 2, 3), ()) == {1, 2}


def test_no_turn_lends_its_slot_twice_running() -> None:
    turns = SlotTurns(1, 8)
    turns.choose((1,), ())
    assert [turns.choose((1,), (2, 3)) for _ in range(4)] == [{2}, {1}, {2}, {1}]


def test_newcomers_come_in_their_order_when_there_are_more_than_slots() -> None:
    assert SlotTurns(2, 8).choose((), (4, 9, 2)) == {4, 9}


def test_a_turn_lasts_its_steps() -> None:
    turns = SlotTurns(1, 3)
    assert [turns.choose((1, 2), ()) for _ in range(7)] == [{1}] * 3 + [{2}] * 3 + [{1}]


def test_with_a_slot_for_each_nobody_is_chosen() -> None:
    turns = SlotTurns(2, 3)
    assert turns.choose((1, 2), (2,)) is None
