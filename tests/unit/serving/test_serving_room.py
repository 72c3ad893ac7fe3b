"""Who goes first: budgets hold, what may not go stays, equals leave in order of last use, and costs count."""

from hypothesis import given
from hypothesis import strategies as st

from serving_service.core.adapter_entry import Key
from serving_service.core.room import Room


def key(number: int) -> Key:
    return ("acme", f"a{number}", "0" * 64)


def test_equals_leave_in_order_of_last_use() -> None:
    room = Room(300)
    for number in range(3):
        room.put(key(number), 100)
    room.touch(key(0))
    room.touch(key(2))
    room.touch(key(1))
    assert room.victims(100, lambda _: True) == [key(0)]


def test_what_is_used_often_or_dear_to_fetch_or_small_stays() -> None:
    room = Room(400)
    room.put(key(0), 100, cost=10)
    room.put(key(1), 100, cost=50)  # five times as dear
    room.put(key(2), 200, cost=10)  # twice as large
    assert room.victims(200, lambda _: True) == [key(2)]
    for _ in range(3):
        room.touch(key(2))
    assert room.victims(100, lambda _: True) == [key(0)]


def test_yesterdays_favourite_leaves_in_the_end() -> None:
    room = Room(200)
    room.put(key(0), 100)
    for _ in range(50):
        room.touch(key(0))
    for number in range(1, 200):
        (victim,) = room.victims(100, lambda _: True) if room.used == 200 else (None,)
        if victim == key(0):
            return
        if victim is not None:
            room.drop(victim)
        room.put(key(number), 100)
        room.touch(key(number))
    raise AssertionError("one adapter stayed for ever on uses of long ago")


@given(
    sizes=st.lists(st.integers(0, 100), min_size=1, max_size=30),
    costs=st.lists(st.floats(0.1, 1000), min_size=30, max_size=30),
    stay=st.sets(st.integers(0, 29)),
    need=st.integers(0, 500),
)
def test_room_is_made_within_the_budget_and_with_no_victim_too_many(
    sizes: list[int], costs: list[float], stay: set[int], need: int
) -> None:
    room = Room(500)
    for number, size in enumerate(sizes):
        if room.used + size <= 500:
            room.put(key(number), size, costs[number])
    protected = {key(number) for number in stay}
    victims = room.victims(need, lambda one: one not in protected)
    if victims is None:
        kept = sum(room.size(one) for one in protected)
        assert kept + need > 500
        return
    assert not protected & set(victims)
    freed = [room.drop(one) for one in victims]
    assert room.used + need <= 500
    if freed:  # without the last one it would not have fitted
        assert room.used + freed[-1] + need > 500


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50), st.booleans()), max_size=60))
def test_what_is_taken_adds_up(steps: list[tuple[int, int, bool]]) -> None:
    room, held = Room(10**6), dict[int, int]()
    for number, size, put in steps:
        if put:
            room.put(key(number), size)
            held[number] = max(size, 1)
        else:
            assert room.drop(key(number)) == held.pop(number, 0)
        assert room.used == sum(held.values())
        assert all(room.size(key(one)) == bytes_ for one, bytes_ in held.items())
