"""How much of what was removed, or kept and why."""

from collections import defaultdict
from dataclasses import dataclass, field
from threading import Lock


@dataclass(slots=True)
class Amount:
    """Objects and their bytes."""

    objects: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Tally:
    """Amounts by what they are. Safe to use from several threads."""

    amounts: dict[str, Amount] = field(default_factory=lambda: defaultdict(Amount))
    _lock: Lock = field(default_factory=Lock)

    def add(self, what: str, objects: int = 1, size: int = 0) -> None:
        """Counts objects."""
        if objects:
            with self._lock:
                amount = self.amounts[what]
                amount.objects += objects
                amount.bytes += size

    def plain(self) -> dict[str, dict[str, int]]:
        """Returns the amounts as JSON values."""
        return {what: {"objects": each.objects, "bytes": each.bytes} for what, each in self.amounts.items()}
