"""The door: wrong keys wait, good ones do not, and one address's trouble is not another's."""

import pytest

from graftwork.errors import ErrorCode
from graftwork.rpc.auth import Principal, Role, Unauthenticated
from graftwork.rpc.door import Door, TooManyFailures, address_of

ACME = Principal(Role.TENANT, "acme", "0" * 16)
HERE, THERE = "ipv4:192.0.2.1:5000", "ipv4:192.0.2.2:5000"


class Keys:
    """Knows some keys; counts how often it is asked."""

    def __init__(self, *good: str) -> None:
        self.good, self.asked = set(good), 0

    async def authenticate(self, token: str) -> Principal:
        self.asked += 1
        if token not in self.good:
            raise Unauthenticated("no such key")
        return ACME


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def fail(door: Door, peer: str, times: int) -> None:
    for number in range(times):
        with pytest.raises(Unauthenticated):
            await door.admit(f"wrong-{number}", peer)


async def test_over_the_limit_nothing_is_looked_up_and_the_wait_is_told() -> None:
    keys, clock = Keys("good"), Clock()
    door = Door(keys, 6, clock)
    await fail(door, HERE, 6)
    with pytest.raises(TooManyFailures, match=r"192\.0\.2\.1") as refused:
        await door.admit("wrong", HERE)
    assert refused.value.code is ErrorCode.EXHAUSTED
    assert keys.asked == 6
    assert refused.value.retry_after_seconds == pytest.approx(10)
    clock.now += 10
    await fail(door, HERE, 1)
    with pytest.raises(TooManyFailures):
        await door.admit("wrong", HERE)


async def test_other_addresses_are_not_held_back() -> None:
    door = Door(Keys("good"), 3, Clock())
    await fail(door, HERE, 3)
    assert await door.admit("good", THERE) == ACME
    with pytest.raises(TooManyFailures):
        await door.admit("good", HERE)


async def test_a_key_that_was_good_here_goes_on_until_it_is_revoked() -> None:
    keys = Keys("good")
    door = Door(keys, 3, Clock())
    await door.admit("good", HERE)
    await fail(door, HERE, 3)
    assert await door.admit("good", HERE) == ACME
    keys.good.clear()
    with pytest.raises(Unauthenticated):
        await door.admit("good", HERE)
    with pytest.raises(TooManyFailures):
        await door.admit("good", HERE)


async def test_what_is_no_wrong_key_is_not_counted() -> None:
    class Away(Keys):
        async def authenticate(self, token: str) -> Principal:
            raise TooManyFailures("the store is away")  # any error but 'unauthenticated'

    door = Door(Away(), 1, Clock())
    for _ in range(3):
        with pytest.raises(TooManyFailures, match="away"):
            await door.admit("good", HERE)


async def test_memory_is_bounded() -> None:
    door = Door(Keys(), 3, Clock())
    for number in range(5000):
        with pytest.raises(Unauthenticated):
            await door.admit("wrong", f"ipv4:10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1")
    assert len(door._peers) == 4096


async def test_no_limit_asks_every_time() -> None:
    keys = Keys()
    await fail(Door(keys, 0, Clock()), HERE, 200)
    assert keys.asked == 200


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:5000", "10.0.0.1"),
        ("unix:/run/graft.sock", "unix"),
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_a_peer_counts_by_what_its_owner_cannot_choose(peer: str, address: str) -> None:
    assert address_of(peer) == address
