"""One tenant's requests in admission, and what a request carries while it is there.

Owns the lines: first come, first served by adapter. Does not own which line is next (`admission_queue`). Pure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from serving_service.core.admission_limits import TenantPolicy, TenantRates
from serving_service.core.errors import QueueFull


class State(Enum):
    """Where a request is."""

    WAITING = auto()
    RUNNING = auto()
    DISPLACED = auto()
    """The queue is full, and its place went to a tenant with fewer waiting."""
    GONE = auto()


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in admission.

    Attributes:
        number: order of arrival.
        tenant: whose limits and turn it takes.
        adapter: which slot it needs; None for the base.
        input_tokens: of the prompt, estimated until it is rendered.
        loads: its adapter is not in the engine yet.
        wake: called once, when the state is no longer WAITING for another reason than `leave`.
        state: where it is.
        place: its place in the fair order, once it has found no slot at its turn; None: its tenant's counter, which moves on.
        since: when it began to run.
        cost: what it was charged in the fair order.
        rendered: its true length is known.
        refusal: why it was displaced.
        again: it was admitted before, and lost what it ran on.
        newcomer: it began while its tenant ran less than its share, and another one more.
    """

    number: int
    tenant: str
    adapter: str | None
    input_tokens: int
    loads: bool
    wake: Callable[[], None]
    state: State = State.WAITING
    place: float | None = None
    since: float = 0.0
    cost: float = 0.0
    rendered: bool = False
    refusal: QueueFull | None = None
    again: bool = False
    newcomer: bool = False


class TenantLines:
    """What is known of one tenant: its limits, what of it runs, and its requests that wait."""

    def __init__(self, name: str, policy: TenantPolicy, now: float) -> None:
        self.name, self.policy = name, policy
        self.rates = TenantRates(name, policy, now)
        self.lines: dict[str | None, dict[int, Ticket]] = {}
        """Waiting requests by adapter, each line in order of arrival."""
        self.waiting = self.running = 0
        self.at_turn: Ticket | None = None
        """The one whose turn it was, and that waits for its slot at the place it had then."""
        self.crowded = float("-inf")
        """When a newcomer last found it running more than its share."""

    @property
    def held_back(self) -> bool:
        """Whether its own limit keeps its next request from running."""
        return 0 < self.policy.concurrency <= self.running

    def join(self, ticket: Ticket) -> None:
        self.lines.setdefault(ticket.adapter, {})[ticket.number] = ticket
        self.waiting += 1

    def part(self, ticket: Ticket) -> None:
        line = self.lines[ticket.adapter]
        del line[ticket.number]
        if not line:
            del self.lines[ticket.adapter]
        self.waiting -= 1
        if self.at_turn is ticket:
            self.at_turn = None

    def heads(self) -> Iterator[Ticket]:
        """The first of each line."""
        return (next(iter(line.values())) for line in self.lines.values())

    def newest(self) -> Ticket:
        """The one that came last, of those that came for the first time if there are any; there must be one."""
        last = [
            next((ticket for ticket in reversed(line.values()) if not ticket.again), next(reversed(line.values())))
            for line in self.lines.values()
        ]
        return max(last, key=lambda ticket: (not ticket.again, ticket.number))
