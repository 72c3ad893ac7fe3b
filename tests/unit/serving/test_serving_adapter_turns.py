"""Slots by themselves: who has one, who drains, and when a drain ends."""

from hypothesis import given
from hypothesis import strategies as st

from serving_service.core.adapter_turns import AdapterTurns, Turn


def in_flight(*adapters: str, slots: int = 2, overtakes: int = 1) -> AdapterTurns:
    turns = AdapterTurns(slots, overtakes, overtake_seconds=10.0)
    for adapter in adapters:
        turns.take(adapter, loads=False, overtaking=False, now=0.0)
    return turns


def test_the_last_in_order_drains_and_only_as_many_as_are_needed() -> None:
    turns = in_flight("first", "last", slots=4)
    for adapter in ("first", "last"):
        turns.take(adapter, loads=False, overtaking=True, now=0.0)
    turns.make_room([("first", 1), ("last", 1)], now=0.0)
    assert [turns.ask(adapter) for adapter in ("first", "last")] == [Turn.GO, Turn.DRAINING]


def test_an_adapter_that_has_not_overtaken_does_not_drain() -> None:
    turns = in_flight("hot")
    turns.make_room([("hot", 1)], now=100.0)
    assert turns.ask("hot") is Turn.GO


def test_serving_without_overtaking_begins_the_allowance_anew() -> None:
    turns = in_flight("hot")
    turns.take("hot", loads=False, overtaking=True, now=0.0)
    turns.take("hot", loads=False, overtaking=False, now=1.0)
    turns.make_room([("hot", 1)], now=1.0)
    assert turns.ask("hot") is Turn.GO


def test_a_slot_is_free_with_the_last_request_on_it() -> None:
    turns = in_flight("a", "b", "b")
    assert turns.ask("c") is Turn.NO_SLOT
    turns.release("b")
    assert turns.ask("c") is Turn.NO_SLOT
    turns.release("b")
    assert turns.ask("c") is Turn.GO
    assert turns.in_flight == 1


def test_a_drain_is_forgotten_with_its_adapter() -> None:
    turns = in_flight("hot", overtakes=0)
    turns.make_room([("hot", 1)], now=0.0)
    assert turns.draining == 1
    turns.release("hot")
    assert turns.draining == 0
    assert turns.ask("hot") is Turn.GO


def test_beyond_the_slots_an_adapter_comes_only_while_few_requests_run() -> None:
    turns = AdapterTurns(2, 1, 10.0, in_flight=4)
    for adapter in ("a", "b", "c"):
        assert turns.ask(adapter) is Turn.GO
        turns.take(adapter, loads=False, overtaking=False, now=0.0)
    turns.take("a", loads=False, overtaking=False, now=0.0)
    assert turns.ask("d") is Turn.NO_SLOT
    turns.release("a")
    assert turns.ask("d") is Turn.GO


def test_above_the_slots_so_many_drain_that_one_becomes_free() -> None:
    """Three on two slots, and those in flight keep the engine busy: two of them have to end before a third's place is free."""
    turns = AdapterTurns(2, 1, 10.0, in_flight=3)
    for adapter in ("a", "b", "c"):
        turns.take(adapter, loads=False, overtaking=False, now=0.0)
        turns.take(adapter, loads=False, overtaking=True, now=0.0)
    turns.make_room([("a", 1), ("b", 1), ("c", 1)], now=0.0)
    assert [turns.ask(adapter) for adapter in "abc"] == [Turn.GO, Turn.DRAINING, Turn.DRAINING]


@given(
    slots=st.integers(1, 3),
    in_flight=st.integers(0, 6),
    events=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=80),
)
def test_never_more_adapters_than_may_be_in_flight(slots: int, in_flight: int, events: list[tuple[bool, int]]) -> None:
    turns, running = AdapterTurns(slots, 1, 10.0, in_flight), list[str]()
    for arrives, number in events:
        if not arrives and running:
            turns.release(running.pop(number % len(running)))
        elif turns.ask(f"a{number}") is Turn.GO:
            turns.take(f"a{number}", loads=False, overtaking=False, now=0.0)
            running.append(f"a{number}")
        assert turns.in_flight == len(set(running)) <= max(slots, in_flight)
