"""Room for merged engines: bytes and number, and who goes first when more is needed.

Owns the arithmetic. Does not own engines, nor when one of them ends (`fast_path`). Pure bookkeeping.
"""

from collections.abc import Collection, Iterable

from serving_service.core.adapter_entry import Key


class MergedBudget:
    """Keeps merged engines within limits.

    Args:
        size: bytes of all of them; 0 switches the fast path off.
        count: engines.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count
        self._taken: dict[Key, int] = {}

    @property
    def used(self) -> int:
        """Bytes taken."""
        return sum(self._taken.values())

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, key: Key) -> bool:
        return key in self._taken

    def take(self, key: Key, size: int) -> bool:
        """Takes room for an engine; False, and nothing taken, when there is none."""
        if self._over(self._taken, size):
            return False
        assert key not in self._taken, "two engines of one version"
        self._taken[key] = size
        return True

    def give_back(self, key: Key) -> None:
        """Gives an engine's room back."""
        del self._taken[key]

    def victims(self, need: int, leaving: Collection[Key], candidates: Iterable[Key]) -> list[Key] | None:
        """Names who must go for one more engine to fit; moves nobody.

        Args:
            need: its bytes; 0 while they are not known.
            leaving: who is on its way out.
            candidates: who may go, the first first.

        Returns:
            None when it will not fit even if all of them went.
        """
        left = {key: size for key, size in self._taken.items() if key not in leaving}
        chosen: list[Key] = []
        queue = iter(candidates)
        while self._over(left, need):
            key = next(queue, None)
            if key is None:
                return None
            if left.pop(key, None) is not None:
                chosen.append(key)
        return chosen

    def _over(self, taken: dict[Key, int], need: int) -> bool:
        return sum(taken.values()) + need > self.size or len(taken) >= self.count
