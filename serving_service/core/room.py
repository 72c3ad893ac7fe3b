"""The room of one tier: who takes how much of it, and who goes first when more is needed.

GreedyDual-Size-Frequency (Cherkasova 1998): what is worth keeping is what is used often, costs much to bring back and takes
little room; the value of what left last ages all others, so that yesterday's favourite does not stay for ever. Pure
bookkeeping: does not own bytes, files or the engine.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving_service.core.adapter_entry import Key


@dataclass(slots=True)
class _Item:
    size: int
    cost: float
    uses: int
    value: float
    turn: int


class Room:
    """Keeps sizes within a budget.

    Args:
        budget: bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._items: dict[Key, _Item] = {}
        self._used = 0
        self._age = 0.0
        self._turn = 0  # breaks ties: of equals the least recently used goes first

    @property
    def used(self) -> int:
        """Bytes taken."""
        return self._used

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def size(self, key: Key) -> int:
        """Bytes that `key` takes; 0 when it is not here."""
        item = self._items.get(key)
        return item.size if item else 0

    def put(self, key: Key, size: int, cost: float = 1.0) -> None:
        """Takes room, or changes what is taken.

        Args:
            key: whose.
            size: bytes; 1 at least, so that what is empty has a value too.
            cost: milliseconds that bringing it back would take; any scale will do as long as all use the same.
        """
        item = self._items.get(key) or _Item(0, cost, 0, 0.0, 0)
        self._used += max(size, 1) - item.size
        item.size, item.cost = max(size, 1), cost
        self._items[key] = item
        self._revalue(item)

    def touch(self, key: Key) -> None:
        """Counts a use."""
        if item := self._items.get(key):
            item.uses += 1
            self._revalue(item)

    def drop(self, key: Key) -> int:
        """Gives room back; returns its bytes."""
        item = self._items.pop(key, None)
        if item is None:
            return 0
        self._used -= item.size
        return item.size

    def victims(self, need: int, may_go: Callable[[Key], bool]) -> list[Key] | None:
        """Names who must go for `need` bytes to fit, least valuable first; drops nobody.

        Returns:
            None when they cannot fit even if all that may go did.
        """
        short = self._used + need - self.budget
        if short <= 0:
            return []
        chosen: list[Key] = []
        for key, item in sorted(self._items.items(), key=lambda pair: (pair[1].value, pair[1].turn)):
            if not may_go(key):
                continue
            chosen.append(key)
            short -= item.size
            if short <= 0:
                self._age = max(self._age, item.value)
                return chosen
        return None

    def _revalue(self, item: _Item) -> None:
        self._turn += 1
        item.turn = self._turn
        item.value = self._age + (item.uses + 1) * item.cost / item.size
