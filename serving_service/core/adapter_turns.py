"""Which adapters may be in flight: as many distinct ones as the engine has slots, more while it has little to do, and none of
them for ever.

vLLM skips a request whose adapter has no slot and goes on with those behind it, so adapters in constant use would keep
the others out. Here an adapter in flight may overtake one that waits for a slot only so often, or for so long; then it
drains: nothing new is admitted on it, and when its last request ends its slot goes to the one that waited.

Where the engine takes turns on its slots, more adapters than slots may be in flight, but only while few requests run. With
many, most of a batch would be paused at any time: drains gather requests on few adapters, and the whole batch computes.

Owns slots and draining. The order in which requests are asked about is `admission_queue`'s. Pure: the caller brings the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

_LONG_DRAIN = 10  # times the time for which an adapter may overtake


class Turn(Enum):
    """The answer for one waiting request."""

    GO = auto()
    """It may run now."""
    NO_SLOT = auto()
    """Its adapter is not in flight and all slots are taken."""
    DRAINING = auto()
    """Its adapter is in flight and makes room for another one."""
    LOADING = auto()
    """Somebody else's request is loading its adapter."""


@dataclass(slots=True)
class _InFlight:
    """An adapter with a slot.

    Attributes:
        requests: admitted on it.
        loading: the first of them is still making it resident.
        overtook: admitted while another adapter that was ahead waited for a slot.
        overtaking_since: when the first of those was; None: nobody was overtaken lately.
        drains_since: from when on it takes no new requests; None: it takes them.
    """

    requests: int = 0
    loading: bool = False
    overtook: int = 0
    overtaking_since: float | None = None
    drains_since: float | None = None


class AdapterTurns:
    """The engine's slots.

    Args:
        slots: distinct adapters that may be in flight whatever runs.
        in_flight: a further one may be, too, while fewer requests than that run on adapters; no more than `slots`: never.
        overtakes: requests that an adapter in flight may admit while one that was ahead of them waits for a slot.
        overtake_seconds: for how long, likewise; whichever is over first.
    """

    def __init__(self, slots: int, overtakes: int, overtake_seconds: float, in_flight: int = 0) -> None:
        self._most_requests, self._requests = in_flight, 0
        self._slots, self._overtakes, self._seconds = slots, overtakes, overtake_seconds
        # Some slots stay hot, so that the batch stays full while others drain.
        self._most_draining = max(1, slots // 2)
        self._in_flight: dict[str, _InFlight] = {}
        self._draining: list[str] = []

    @property
    def in_flight(self) -> int:
        """Distinct adapters."""
        return len(self._in_flight)

    @property
    def draining(self) -> int:
        return len(self._draining)

    def holds(self, adapter: str) -> bool:
        """Whether the adapter has a slot."""
        return adapter in self._in_flight

    def ask(self, adapter: str) -> Turn:
        """Says whether a waiting request may run."""
        held = self._in_flight.get(adapter)
        if held is None:
            free = len(self._in_flight) < self._slots or self._requests < self._most_requests
            return Turn.GO if free else Turn.NO_SLOT
        if held.loading:
            return Turn.LOADING
        return Turn.GO if held.drains_since is None else Turn.DRAINING

    def may_drain(self, adapter: str, ahead: int, now: float) -> bool:
        """Whether an adapter in flight has overtaken for long enough, and one more may drain.

        Args:
            adapter: in flight.
            ahead: how many that wait for a slot are ahead of it.
            now: seconds.
        """
        held = self._in_flight[adapter]
        if held.loading or held.drains_since is not None:
            return False
        since = now if held.overtaking_since is None else held.overtaking_since
        if held.overtook < self._overtakes and now - since < self._seconds:
            return False
        # One slot for each that waits is enough; draining more would empty the batch for nothing.
        quick = sum(not self._drags(one, now) for one in self._draining)
        return quick < self._beyond + min(ahead, self._most_draining)

    def make_room(self, behind: Sequence[tuple[str, int]], now: float) -> None:
        """Starts drains: of adapters that have overtaken for long enough, the one whose own next request is last in the
        fair order first. It is the one whose tenants were served most.

        Args:
            behind: adapters in flight of which a request is behind one that waits for a slot, in the fair order, each
                with how many adapters before it wait.
            now: seconds.
        """
        for adapter, ahead in reversed(behind):
            if self.may_drain(adapter, ahead, now):
                self._in_flight[adapter].drains_since = now
                self._draining.append(adapter)

    def take(self, adapter: str, *, loads: bool, overtaking: bool, now: float) -> None:
        """Counts an admitted request.

        Args:
            adapter: of the request.
            loads: the adapter is not in the engine; the first request brings it in, and no others are admitted meanwhile, for
                they would only sit on places in the batch.
            overtaking: another adapter was ahead and waits for a slot.
            now: seconds.
        """
        held = self._in_flight.get(adapter)
        if held is None:
            held = self._in_flight[adapter] = _InFlight(loading=loads)
        elif overtaking:
            held.overtook += 1
            if held.overtaking_since is None:
                held.overtaking_since = now
        else:
            held.overtook, held.overtaking_since = 0, None
        held.requests += 1
        self._requests += 1

    def loaded(self, adapter: str) -> None:
        """The adapter is resident: others may follow."""
        self._in_flight[adapter].loading = False

    def release(self, adapter: str) -> None:
        """Counts the end of a request; with the last one the slot is free."""
        held = self._in_flight[adapter]
        held.requests -= 1
        self._requests -= 1
        if not held.requests:
            del self._in_flight[adapter]
            if held.drains_since is not None:
                self._draining.remove(adapter)

    def spare(self, waiting: int) -> None:
        """Ends drains that nobody needs any more, the newest first.

        Args:
            waiting: distinct adapters that wait for a slot.
        """
        while len(self._draining) > (waiting and waiting + self._beyond):
            held = self._in_flight[self._draining.pop()]
            held.drains_since, held.overtook, held.overtaking_since = None, 0, None

    @property
    def _beyond(self) -> int:
        """Adapters in flight that have to end before the next one's end leaves a slot."""
        return max(0, len(self._in_flight) - self._slots)

    def _drags(self, adapter: str, now: float) -> bool:
        """Whether a drain waits for a long answer: another slot may be free sooner."""
        since = self._in_flight[adapter].drains_since
        return since is not None and now - since > _LONG_DRAIN * self._seconds
