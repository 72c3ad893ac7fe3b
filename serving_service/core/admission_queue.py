"""Who runs next: the state of admission, without clock, tasks or I/O.

Invariants, each with a test:
- never more requests run than there are places, nor more distinct adapters than may be in flight, nor more of a
  tenant than it may;
- a place is never empty while a request waits that could take it;
- between tenants that both wait, tokens served (weighted) differ by a bounded amount;
- every waiting request runs after a bounded number of others have ended, whatever the others are;
- a request that leaves, at whatever moment, leaves nothing behind.

Owns the order of all rules. The rules are `admission_limits`, `fair_order` and `adapter_turns`; waiting is `admission`'s.
"""

from collections.abc import Callable
from heapq import heapify, heappop

from serving_service.core.adapter_turns import AdapterTurns, Turn
from serving_service.core.admission_limits import AdmissionLimits, TenantPolicy, TenantRates
from serving_service.core.errors import QueueFull
from serving_service.core.fair_order import FairOrder
from serving_service.core.waiting_lines import State, TenantLines, Ticket

_SWEEP_ABOVE = 1024  # tenants remembered before those that nothing is to be remembered of are looked for
_LEARNING = 0.1  # how much the newest request counts in the mean time that one runs
_CROWDS_S = 10.0  # that a tenant counts as one that crowds others after a newcomer; as long as more are expected
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.1, 60.0


class AdmissionQueue:
    """All requests that wait or run.

    Every call that may make room admits whom it can before it returns. `now` is seconds, monotonic.

    Args:
        limits: of the service.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._order = FairOrder()
        self._turns = AdapterTurns(limits.adapters, limits.overtakes, limits.overtake_seconds, limits.in_flight)
        self._tenants: dict[str, TenantLines] = {}
        self._queued: dict[str, TenantLines] = {}  # those with somebody waiting
        self._present: dict[str, TenantLines] = {}  # those with somebody waiting or running
        self._numbers = 0
        self._mean_seconds, self._mean_cost = 1.0, 0.0  # of a request
        self._sweep_at = _SWEEP_ABOVE
        self.running = self.waiting = 0

    @property
    def adapters(self) -> int:
        """Distinct adapters in flight."""
        return self._turns.in_flight

    def enter(
        self,
        tenant: str,
        policy: TenantPolicy,
        now: float,
        *,
        adapter: str | None,
        input_tokens: int,
        loads: bool = False,
        again: bool = False,
        wake: Callable[[], None],
    ) -> Ticket:
        """Takes a request in; it runs when this returns, or waits.

        Args:
            again: it was taken in before and lost its place by no fault of its tenant's, so it is neither counted nor refused.

        Raises:
            RateLimited: the tenant is over its requests or tokens a minute.
            QueueFull: it would have to wait, and as many wait as may.
        """
        of = self._tenant(tenant, policy, now)
        if again:
            of.rates.charge(input_tokens, now)
        else:
            of.rates.enter(input_tokens, now)
        self._numbers += 1
        ticket = Ticket(self._numbers, tenant, adapter, input_tokens, loads, wake, again=again)
        self._join(of, ticket)
        self._admit_all(now)
        if ticket.state is not State.WAITING or again:
            return ticket
        if 0 < policy.queue_length < of.waiting:
            self._turn_away(of, ticket, now)
            raise self._full(of)
        if self.waiting > self._limits.waiting:
            self._displace(of, ticket, now)
        return ticket

    def ask(self, tenant: str, policy: TenantPolicy, now: float) -> TenantRates:
        """Returns what a tenant's requests are counted in; raises RateLimited when there is no room for another one."""
        rates = self._tenant(tenant, policy, now).rates
        rates.ask(now)
        return rates

    def loaded(self, ticket: Ticket, now: float) -> None:
        """A running request's adapter is resident."""
        if ticket.adapter is not None:
            self._turns.loaded(ticket.adapter)
            self._admit_all(now)

    def rendered(self, ticket: Ticket, input_tokens: int, now: float) -> None:
        """Puts the prompt's true length in place of the estimate."""
        self._charge(ticket, now, input_tokens=input_tokens - ticket.input_tokens)
        ticket.input_tokens, ticket.rendered = input_tokens, True

    def served(self, ticket: Ticket, output_tokens: int, now: float) -> None:
        """Charges tokens of a running request's answer."""
        self._charge(ticket, now, output_tokens=output_tokens)

    def crowds(self, ticket: Ticket, now: float) -> bool:
        """Whether newcomers have lately found its tenant running more than its share, and more than half of the places taken."""
        of = self._tenants.get(ticket.tenant)
        return of is not None and now - of.crowded < _CROWDS_S

    def annul(self, ticket: Ticket, output_tokens: int, now: float) -> None:
        """Takes back what a running request was charged, its answer so far included: it is about to leave and to come again."""
        self._charge(ticket, now, output_tokens=-output_tokens)
        ticket.rendered = False

    def leave(self, ticket: Ticket, now: float) -> None:
        """Takes a request out, whatever its state; what it held goes to the next. Repeating it changes nothing.

        A prompt that never reached the engine is not charged.
        """
        state, ticket.state = ticket.state, State.GONE
        if state not in (State.WAITING, State.RUNNING):
            return
        of = self._tenants[ticket.tenant]
        if state is State.WAITING:
            self._part(of, ticket)
            of.rates.charge(-ticket.input_tokens, now)
        else:
            of.running -= 1
            self.running -= 1
            if not (of.running or of.waiting):
                del self._present[of.name]
            if ticket.adapter is not None:
                self._turns.release(ticket.adapter)
            if ticket.rendered:
                self._mean_seconds += _LEARNING * (now - ticket.since - self._mean_seconds)
                self._mean_cost += _LEARNING * (ticket.cost - self._mean_cost)
            else:
                self._charge(ticket, now, input_tokens=-ticket.input_tokens)
        self._admit_all(now)

    def _admit_all(self, now: float) -> None:
        while True:
            if not self.waiting:
                self._order.renew(())
                self._turns.spare(0)
                return
            self._order.renew([of.name for of in self._queued.values() if not of.held_back])
            ticket = self._next(now)
            if ticket is None:
                return
            self._run(ticket, now)

    def _next(self, now: float) -> Ticket | None:
        """The first in the fair order that can run; it has its slot when this returns."""
        order = self._in_order()
        heapify(order)  # not sorted: most often one of the first is the one
        everybody, ahead, before = tuple(order), 0, None
        while order:
            head = heappop(order)[2]
            if head.adapter is None:
                return head
            turn = self._turns.ask(head.adapter)
            if turn is Turn.GO and ahead and self._turns.may_drain(head.adapter, ahead, now):
                self._make_room(sorted(everybody), now)
                turn = self._turns.ask(head.adapter)
            if turn is Turn.GO:
                self._turns.take(head.adapter, loads=head.loads, overtaking=ahead > 0, now=now)
                return head
            of = self._tenants[head.tenant]
            ahead += turn is Turn.NO_SLOT
            if turn is not Turn.LOADING:
                if of.at_turn is None:
                    of.at_turn, head.place = head, self._place_at_turn(of, before)
                if of.at_turn is head:
                    before = head.place
        return None

    def _in_order(self) -> list[tuple[float, int, Ticket]]:
        """The first of each line that may have a place now, with its place in the fair order; unsorted."""
        over = self.running - self._limits.running
        if over >= (self._limits.newcomers if self._limits.fair else 0):
            return []
        if self._turns.draining:
            cold = {name for of in self._queued.values() if not of.held_back for name in of.lines if name}
            self._turns.spare(sum(not self._turns.holds(name) for name in cold))
        made: list[tuple[float, int, Ticket]] = []
        for of in self._queued.values():
            if of.held_back or (
                over >= 0 and of.running and not (2 * over < self._limits.newcomers and self._below(of))
            ):
                continue
            counter = self._order.counter(of.name) if self._limits.fair else 0.0
            for head in of.heads():
                place = counter if head.place is None or not self._limits.fair else head.place
                made.append((place, head.number, head))
        return made

    def _below(self, of: TenantLines) -> bool:
        """Whether a tenant runs less than its share of the places, beside all who run or wait now."""
        weights = sum(one.policy.weight for one in self._present.values())
        return of.running * weights < self._limits.running * of.policy.weight

    def _above(self) -> list[TenantLines]:
        """Tenants that run more than their share."""
        weights = sum(one.policy.weight for one in self._present.values())
        limit = self._limits.running
        return [one for one in self._present.values() if one.running * weights > limit * one.policy.weight]

    def _make_room(self, order: list[tuple[float, int, Ticket]], now: float) -> None:
        """Lets adapters drain that keep others from running which are ahead of them."""
        ahead, behind = 0, list[tuple[str, int]]()
        for _, _, head in order:
            if head.adapter is None:
                continue
            if self._turns.ask(head.adapter) is Turn.NO_SLOT:
                ahead += 1
            elif ahead and self._turns.holds(head.adapter):
                behind.append((head.adapter, ahead))
        self._turns.make_room(behind, now)

    def _place_at_turn(self, of: TenantLines, before: float | None) -> float:
        """Where a request stands from now on that was reached and found no slot.

        Its tenant's other requests go on and move the counter on; at a place that moved with it, this one might never again
        be first when a slot becomes free. For the same reason it does not stand further behind the one before it than
        what a batch and its overtakers are charged: who uses much without a slot (of the base, or of an adapter in
        flight) may be ahead by any amount of those who only compete for slots.

        Args:
            of: its tenant.
            before: the place of the one that waits for a slot just before it; None: nobody does.
        """
        place = self._order.counter(of.name)
        if before is None:
            return place
        return min(place, before + (self._limits.running + self._limits.overtakes) * self._mean_cost)

    def _run(self, ticket: Ticket, now: float) -> None:
        of = self._tenants[ticket.tenant]
        if self._limits.fair and self._below(of) and (above := self._above()):
            ticket.newcomer = True
            # With most places free a share is a number, and nobody is in anybody's way.
            for one in above if 2 * self.running > self._limits.running else ():
                one.crowded = now
        of.running += 1
        self.running += 1
        self._part(of, ticket)
        ticket.cost += self._order.charge(of.name, of.policy.weight, input_tokens=ticket.input_tokens)
        ticket.state, ticket.since = State.RUNNING, now
        ticket.wake()

    def _displace(self, of: TenantLines, ticket: Ticket, now: float) -> None:
        """Turns the newest request away of whoever has most waiting for its weight, so that a flood cannot keep others from
        queueing; raises when that is the caller's own."""
        longest = max(self._queued.values(), key=lambda one: (one.waiting / one.policy.weight, one is of))
        if longest is of or not self._limits.fair:
            self._turn_away(of, ticket, now)
            raise self._full(of)
        newest = longest.newest()
        self._turn_away(longest, newest, now)
        newest.state, newest.refusal = State.DISPLACED, self._full(longest)
        newest.wake()

    def _full(self, of: TenantLines) -> QueueFull:
        """The error for a request that finds no room to wait; the time is when about half of what waits will have begun."""
        places = min(filter(None, (of.policy.concurrency, self._limits.running)))
        ahead = of.waiting if of.waiting else self.waiting
        wait = min(max(self._mean_seconds * ahead / places / 2, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)
        return QueueFull(
            f"{of.waiting} requests of {of.name or 'this caller'} and {self.waiting} in all are waiting, more are not "
            f"queued; send this one again in {wait:.1f} s",
            wait,
        )

    def _turn_away(self, of: TenantLines, ticket: Ticket, now: float) -> None:
        self._part(of, ticket)
        of.rates.forgive(ticket.input_tokens, now)
        ticket.state = State.GONE
        self._admit_all(now)

    def _join(self, of: TenantLines, ticket: Ticket) -> None:
        of.join(ticket)
        self.waiting += 1
        self._queued[of.name] = self._present[of.name] = of

    def _part(self, of: TenantLines, ticket: Ticket) -> None:
        of.part(ticket)
        self.waiting -= 1
        if not of.waiting:
            del self._queued[of.name]
            if not of.running:
                del self._present[of.name]

    def _charge(self, ticket: Ticket, now: float, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        of = self._tenants[ticket.tenant]
        ticket.cost += self._order.charge(
            of.name, of.policy.weight, input_tokens=input_tokens, output_tokens=output_tokens
        )
        of.rates.charge(input_tokens + output_tokens, now)

    def _tenant(self, name: str, policy: TenantPolicy, now: float) -> TenantLines:
        of = self._tenants.get(name)
        if of is None:
            self._sweep(now)
            of = self._tenants[name] = TenantLines(name, policy, now)
        elif of.policy != policy:
            of.policy = policy
            of.rates.update(policy, now)
        return of

    def _sweep(self, now: float) -> None:
        """Forgets tenants of whom nothing is to be remembered, so that memory does not grow with all who ever called."""
        if len(self._tenants) < self._sweep_at:
            return
        for name, of in list(self._tenants.items()):
            if not of.waiting and not of.running and of.rates.rested(now):
                self._order.forget(name)
                del self._tenants[name]
        self._sweep_at = max(_SWEEP_ABOVE, 2 * len(self._tenants))
