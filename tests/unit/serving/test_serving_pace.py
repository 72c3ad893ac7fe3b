"""Threads that stage rest after each small piece of Python; others never."""

import threading
from collections.abc import Callable

import pytest

from serving_service.vllm_plugin import pace


class _Clock:
    """A piece of work takes what is told; a rest what it is."""

    def __init__(self) -> None:
        self.now, self.rests = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def in_thread(work: Callable[[], None]) -> None:
    """Runs it in a thread of its own, for a thread that rests does so for good."""
    errors = list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_no_piece_is_longer_than_it_may_be_and_one_step_of_work(clock: _Clock) -> None:
    worked = list[float]()

    def work() -> None:
        pace.begin()
        since = 0.0
        for _ in pace.paced(range(1000)):
            if clock.rests and len(clock.rests) > len(worked):
                worked.append(since)
                since = 0.0
            clock.now += 1e-5
            since += 1e-5

    in_thread(work)
    assert len(clock.rests) > 50
    assert set(clock.rests) == {pace.REST_S}
    assert max(worked) <= pace.PIECE_S + 2e-5


def test_who_has_not_begun_does_not_rest(clock: _Clock) -> None:
    in_thread(pace.begin)
    for _ in pace.paced(range(10)):
        clock.now += 1.0
    assert clock.rests == []


def test_a_dict_is_gone_through_as_another(clock: _Clock) -> None:
    made = pace.Paced(a=1, b=2)
    assert list(made.items()) == [("a", 1), ("b", 2)]

    def work() -> None:
        pace.begin()
        for _ in made.items():
            clock.now += 1.0

    in_thread(work)
    assert len(clock.rests) == 2
