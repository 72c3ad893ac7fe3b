"""A thread beside something urgent goes on in a lull, or when it is needed, and ends when it is told to."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from graftwork.quiet_threads import Lull

HOUR = 3600.0


class Waiting:
    """A thread that waits for its next piece; `asked` counts how often it looked whether it is needed."""

    def __init__(self, lull: Lull) -> None:
        self.needed = False
        self.asked = threading.Semaphore(0)
        self.made: Future[bool] = ThreadPoolExecutor(1).submit(lull.wait, self._needed)

    def _needed(self) -> bool:
        self.asked.release()
        return self.needed


def test_nothing_was_used_so_it_goes_on_after_its_pause() -> None:
    assert Lull(0, HOUR).wait(lambda: False)


def test_after_a_use_it_waits_for_the_lull_unless_it_is_needed() -> None:
    lull = Lull(0, HOUR)
    lull.used()
    assert lull.wait(lambda: True)
    waiting = Waiting(lull)
    for _ in range(3):
        assert waiting.asked.acquire(timeout=20)  # it has looked, and waits
        assert not waiting.made.done()
        lull.used()
    waiting.needed = True
    lull.used()
    assert waiting.made.result(20)


def test_the_lull_ends_the_waiting() -> None:
    lull = Lull(0, 0.001)
    lull.used()
    assert lull.wait(lambda: False)


@pytest.mark.parametrize("needed", [True, False])
def test_it_is_told_to_end_while_it_waits(needed: bool) -> None:
    lull = Lull(HOUR if needed else 0, HOUR)
    lull.used()
    waiting = Waiting(lull)
    waiting.needed = needed
    assert waiting.asked.acquire(timeout=20)
    lull.close()
    assert waiting.made.result(20) is False
    assert lull.wait(lambda: needed) is False
