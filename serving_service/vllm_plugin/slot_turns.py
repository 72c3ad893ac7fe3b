"""Which adapters compute in the next step, where requests of more adapters run than the engine has slots.

Adapters have turns, as many at a time as there are slots: first come, first served, and after some steps the next one's. So
short answers end in one turn, which keeps the mean time to the end low; equal shares in small slices would end all of them
late. A request that waits for its first token does not wait for a turn: its adapter borrows the slot of the turn that began
last, for the steps of its prompt. No turn lends its slot in two steps running, so that newcomers, however many, take at most
every other step of it.

Owns the choice alone: pure, of adapter ids, step by step. Carrying it out is `slot_scheduler`'s, copying into slots `slot_writing`'s.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Turn:
    """Of one adapter.

    Attributes:
        steps: that it has computed.
        lent: it did not compute in the last step. True at first, for a turn begins by computing.
    """

    steps: int = 0
    lent: bool = True


class SlotTurns:
    """Chooses step by step.

    Args:
        slots: adapters in one step.
        steps: of a turn while others wait for one. Fewer make shorter gaps in long answers, more end short ones sooner.
    """

    def __init__(self, slots: int, steps: int) -> None:
        self._slots, self._steps = slots, steps
        self._turns: dict[int, _Turn] = {}  # the one that began first, first
        self._queue: dict[int, None] = {}  # who has requests and no turn; the next one first

    def longest_pause(self, present: int) -> int:
        """Steps within which every adapter computes again while at most `present` have requests, whatever comes."""
        return 2 * self._steps * -(-present // self._slots)

    def choose(self, running: Iterable[int], new: Sequence[int]) -> frozenset[int] | None:
        """Begins a step.

        Args:
            running: adapters that have requests; repetitions do not matter.
            new: those of requests that wait for their first token and could have it in this step, the first one first.

        Returns:
            The adapters that may compute; None when all may.
        """
        present = dict.fromkeys((*running, *new))
        self._renew(present)
        if len(present) <= self._slots:
            chosen = list(present)
        else:
            due = [adapter for adapter, turn in self._turns.items() if turn.lent]
            chosen = list(dict.fromkeys((*due, *new, *self._turns)))[: self._slots]
        for adapter, turn in self._turns.items():
            turn.lent = adapter not in chosen
            turn.steps += not turn.lent
        return None if len(present) <= self._slots else frozenset(chosen)

    def _renew(self, present: Collection[int]) -> None:
        """Ends turns that are over, and begins others."""
        self._turns = {one: turn for one, turn in self._turns.items() if one in present}
        self._queue = {one: None for one in self._queue if one in present}
        self._queue |= {one: None for one in present if one not in self._turns}
        over = [one for one, turn in self._turns.items() if turn.steps >= self._steps]
        # Only as many as others want.
        for adapter in over[: max(0, len(self._queue) - (self._slots - len(self._turns)))]:
            del self._turns[adapter]
            self._queue[adapter] = None
        for adapter in list(self._queue)[: self._slots - len(self._turns)]:
            del self._queue[adapter]
            self._turns[adapter] = _Turn()
