"""Slots by themselves: who has one, who drains, and when a drain ends."""

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
