"""Counts and latencies of the last minutes in a bounded amount of memory: a ring of slots of equal width.

Owns slots, their expiry and percentiles. Does not own whose they are or what is counted when (`traffic`). Pure: the caller
brings the clock.

Latencies are kept as histograms whose bounds grow by a fifth, from 1 ms to over an hour: 88 counters, and a percentile that is
within a fifth of the true one.
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add

_LEAST_S, _RATIO, _BOUNDS = 0.001, 1.2, 88


@dataclass(slots=True)
class Latencies:
    """A histogram of seconds; its counters come with the first one."""

    _counts: "array[int] | None" = None

    def take(self, seconds: float) -> None:
        """Counts one; below 1 ms all are alike, and beyond an hour."""
        if self._counts is None:
            self._counts = array("I", bytes(4 * _BOUNDS))
        place = math.ceil(math.log(max(seconds, _LEAST_S) / _LEAST_S, _RATIO))
        self._counts[min(place, _BOUNDS - 1)] += 1

    def merge(self, other: "Latencies") -> None:
        """Adds another one's counts."""
        if other._counts is not None:
            mine = self._counts or array("I", bytes(4 * _BOUNDS))
            self._counts = array("I", map(add, mine, other._counts))

    @property
    def count(self) -> int:
        return sum(self._counts or ())

    def percentile(self, share: float) -> float:
        """Returns the seconds that `share` (0 to 1) of all took at most; 0 when there are none."""
        if not (count := self.count):
            return 0.0
        assert self._counts is not None
        wanted = max(1, math.ceil(share * count))
        for place, (below, here) in enumerate(zip(accumulate(self._counts), self._counts, strict=True)):
            if below >= wanted:
                # Evenly over the bucket, on its logarithmic scale.
                part = (wanted - (below - here)) / here
                return _LEAST_S * _RATIO ** (place - 1 + part) if place else _LEAST_S
        raise AssertionError("the counters do not add up to their sum")


@dataclass(slots=True)
class Slot:
    """What was counted in one stretch of time.

    Attributes:
        requests: that ended, however they did.
        answered: of them, to their end.
        cancelled: their callers went away.
        failed: they ended with an error after their first token.
        rejections: those that ended with one before it, by the error's class: a closed set.
        prompt_tokens: of prompts that reached the engine.
        completion_tokens: generated.
        first_token: arrival to first token.
        whole: arrival to end, of those that were answered.
    """

    requests: int = 0
    answered: int = 0
    cancelled: int = 0
    failed: int = 0
    rejections: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: Latencies = field(default_factory=Latencies)
    whole: Latencies = field(default_factory=Latencies)

    @property
    def rejected(self) -> int:
        """Of all reasons."""
        return sum(self.rejections.values())

    def merge(self, other: "Slot") -> None:
        """Adds another one's counts."""
        self.requests += other.requests
        self.answered += other.answered
        self.cancelled += other.cancelled
        self.failed += other.failed
        for reason, count in other.rejections.items():
            self.rejections[reason] = self.rejections.get(reason, 0) + count
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.first_token.merge(other.first_token)
        self.whole.merge(other.whole)


class Ring:
    """The newest slots; only those in which something was counted take memory.

    Args:
        width: of a slot, seconds.
        slots: full ones that are kept, besides the one that is filling.
    """

    def __init__(self, width: float, slots: int) -> None:
        self.width, self._most = width, slots
        self._slots: dict[int, Slot] = {}

    def now(self, now: float) -> Slot:
        """Returns the slot to count in."""
        number = self._number(now)
        found = self._slots.get(number)
        if found is None:
            for old in [known for known in self._slots if known < number - self._most]:
                del self._slots[old]
            found = self._slots[number] = Slot()
        return found

    def sum(self, now: float, slots: int) -> Slot:
        """Adds up the newest `slots` full slots and the one that is filling."""
        number, total = self._number(now), Slot()
        for known, slot in self._slots.items():
            if number - slots <= known <= number:
                total.merge(slot)
        return total

    def seconds(self, now: float, slots: int) -> float:
        """What `sum` covers: the full slots, and as much of the next one as has passed."""
        return slots * self.width + now % self.width

    def series(self, now: float) -> Iterable[Slot]:
        """Yields every full slot, oldest first; empty ones where nothing was counted."""
        number = self._number(now)
        for place in range(number - self._most, number):
            yield self._slots.get(place) or Slot()

    def __len__(self) -> int:
        return len(self._slots)

    def _number(self, now: float) -> int:
        return int(now // self.width)
