"""What is in use is asked for again, evenly, for a while, and no more of it than a bound."""

import asyncio
import itertools

import pytest

from adapter_store.errors import StoreUnavailable
from serving_service.core.in_use import IN_USE_S, MOST, NamesInUse

ROUND_S = 0.75


class Desk:
    """The store's side, and time: it goes on only where the rounds sleep, and while `until` says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[float, str]] = []
        self.answer = True
        self.failure: Exception | None = None
        self.hangs = ""
        self.in_use = NamesInUse(self.ask, ROUND_S, lambda: self.now, self.sleep)
        self._until, self._more = 0.0, asyncio.Event()
        self._reached = asyncio.Event()

    async def ask(self, name: str) -> bool:
        self.asked.append((self.now, name))
        if name == self.hangs:
            await asyncio.Event().wait()
        if self.failure:
            raise self.failure
        return self.answer

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        for _ in range(3):
            await asyncio.sleep(0)  # what was asked has its answer before time goes on
        due = self.now + seconds
        while due > self._until:
            self._reached.set()
            self._more.clear()
            await self._more.wait()
        self.now = due

    async def until(self, now: float) -> None:
        """Lets time go on."""
        self._until = now
        self._reached.clear()
        self._more.set()
        ends = {asyncio.create_task(self._reached.wait())} | ({task} if (task := self.in_use._rounds) else set())
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self.now = now


async def test_each_name_is_asked_for_once_in_a_round_and_evenly() -> None:
    desk = Desk()
    for name in "abc":
        desk.in_use.used(name)
    await desk.until(10 * ROUND_S + 0.01)
    times = [when for when, _ in desk.asked]
    assert [name for _, name in desk.asked] == list("abc") * 10
    assert times == pytest.approx([ROUND_S / 3 * (number + 1) for number in range(30)])
    await desk.in_use.close()


async def test_the_order_of_asking_does_not_follow_the_order_of_use() -> None:
    """Else a name could be first in one round and last in the next, and its answer too old in between."""
    desk = Desk()
    for name in "abc":
        desk.in_use.used(name)
    for slot in range(1, 30):
        await desk.until(slot * ROUND_S / 3 + 0.001)
        desk.in_use.used("abc"[slot % 2])
    for name in "abc":
        times = [when for when, asked in desk.asked if asked == name]
        assert all(later - earlier == pytest.approx(ROUND_S) for earlier, later in itertools.pairwise(times))
    await desk.in_use.close()


async def test_a_question_that_hangs_keeps_no_other_name_waiting() -> None:
    desk = Desk()
    desk.hangs = "a"
    for name in "ab":
        desk.in_use.used(name)
    await desk.until(10 * ROUND_S + 0.01)
    assert [name for _, name in desk.asked] == ["a", *"b" * 10]
    await desk.in_use.close()
    assert not desk.in_use._asking


async def test_a_name_that_is_not_used_any_more_is_let_go_and_the_rounds_end() -> None:
    desk = Desk()
    desk.in_use.used("a")
    await desk.until(IN_USE_S / 2)
    desk.in_use.used("a")
    await desk.until(2 * IN_USE_S)
    assert IN_USE_S * 1.4 < desk.asked[-1][0] <= IN_USE_S * 1.5
    assert desk.in_use._rounds is None
    desk.in_use.used("a")
    await desk.until(2 * IN_USE_S + 1)
    assert desk.asked[-1][0] > 2 * IN_USE_S, "it begins again"
    await desk.in_use.close()


async def test_of_many_names_those_used_last_are_kept_fresh() -> None:
    desk = Desk()
    for number in range(3 * MOST):
        desk.in_use.used(str(number))
    desk.in_use.used("0")
    await desk.until(2 * ROUND_S)
    assert {name for _, name in desk.asked} == {"0", *(str(number) for number in range(2 * MOST + 1, 3 * MOST))}
    assert len(desk.asked) <= 2 * MOST
    await desk.in_use.close()


@pytest.mark.parametrize("failure", [None, StoreUnavailable("away"), RuntimeError("a fault")])
async def test_what_has_no_answer_is_left_to_the_next_request(failure: Exception | None) -> None:
    desk = Desk()
    desk.answer, desk.failure = False, failure
    desk.in_use.used("a")
    await desk.until(5 * ROUND_S)
    assert len(desk.asked) == 1
    assert desk.in_use._rounds is None


async def test_closed_in_the_middle_of_a_question_it_asks_no_more() -> None:
    asks, began = list[str](), asyncio.Event()

    async def ask(name: str) -> bool:
        asks.append(name)
        began.set()
        await asyncio.Event().wait()
        return True

    in_use = NamesInUse(ask, 0.0)
    in_use.used("a")
    await began.wait()
    await in_use.close()
    in_use.used("b")
    await in_use.close()
    assert asks == ["a"]
    assert in_use._rounds is None
