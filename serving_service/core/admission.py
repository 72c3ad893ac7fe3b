"""The door of the service: a request waits here until it may run, and gives everything back when it ends.

Owns waiting: futures, deadlines, cancellation. Who is next is `admission_queue`'s, which is pure; this is the only place where
it meets a clock and an event loop. Everything here runs on that one loop.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from graftwork.errors import ErrorCode, GraftError
from serving_service.core.admission_limits import AdmissionLimits, TenantPolicy
from serving_service.core.admission_queue import AdmissionQueue
from serving_service.core.deadlines import within
from serving_service.core.errors import Draining
from serving_service.core.waiting_lines import State, Ticket

PolicyOf = Callable[[str], Awaitable[TenantPolicy]]
"""A tenant's limits and weight; answers within about a second whatever the store does."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What wants to run.

    Attributes:
        tenant: on whose account; '' is the operators', which has no limits.
        adapter: the engine's name of the adapter version; None is the base.
        input_tokens: of the prompt, estimated.
        loads: the engine does not hold the adapter.
        deadline: of `time.monotonic()`; None: waits for as long as it takes.
        again: it was admitted before, and what it ran on is gone: it is not counted again, and never refused.
    """

    tenant: str
    adapter: str | None
    input_tokens: int
    loads: bool = False
    deadline: float | None = None
    again: bool = False


class Admitted:
    """A running request's place; what happens to it is told here, so that it is charged."""

    def __init__(self, queue: AdmissionQueue, ticket: Ticket, clock: Callable[[], float], queue_ms: float) -> None:
        self._queue, self._ticket, self._clock = queue, ticket, clock
        self.queue_ms = queue_ms

    @property
    def newcomer(self) -> bool:
        """It began while its tenant ran less than its share, and another one more: the engine should not let it wait."""
        return self._ticket.newcomer

    def crowds(self) -> bool:
        """Whether newcomers have lately found its tenant running more than its share: what its answers cost counts."""
        return self._queue.crowds(self._ticket, self._clock())

    def loaded(self) -> None:
        """The adapter is resident: others that wait for it may follow."""
        self._queue.loaded(self._ticket, self._clock())

    def rendered(self, input_tokens: int) -> None:
        """The prompt's true length; from here on it is charged whatever happens."""
        self._queue.rendered(self._ticket, input_tokens, self._clock())

    def served(self, output_tokens: int) -> None:
        """Further tokens of the answer."""
        self._queue.served(self._ticket, output_tokens, self._clock())

    def annul(self, output_tokens: int) -> None:
        """Takes back what it was charged, `output_tokens` of its answer included: nothing of it has reached the caller."""
        self._queue.annul(self._ticket, output_tokens, self._clock())


@dataclass(frozen=True, slots=True)
class AdmissionCounts:
    """How busy the door is now."""

    running: int
    waiting: int
    adapters: int


class Admission:
    """Lets requests run.

    Args:
        limits: of the service.
        policy_of: of its tenants.
        clock: seconds, monotonic.
    """

    def __init__(
        self, limits: AdmissionLimits, policy_of: PolicyOf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = AdmissionQueue(limits)
        self._policy_of, self._clock = policy_of, clock
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False

    @contextlib.asynccontextmanager
    async def naming(self, tenant: str, deadline: float | None = None) -> AsyncIterator[None]:
        """Covers the search for what a request names; one that finds nothing counts as a request, for it cost the store one.

        Raises:
            RateLimited: the tenant may send no request now, so nothing is searched for it.
            DeadlinePassed: `deadline` passed before its limits were read.
        """
        async with within(deadline, "the tenant's limits were read"):
            policy = await self._policy_of(tenant)
        rates = self._queue.ask(tenant, policy, self._clock())
        try:
            yield
        except GraftError as error:
            if error.code is ErrorCode.NOT_FOUND:
                rates.missed(self._clock())
            raise

    @contextlib.asynccontextmanager
    async def admit(self, wish: Wish) -> AsyncIterator[Admitted]:
        """Waits for the request's turn, and holds its place inside the block.

        Raises:
            RateLimited, QueueFull: over a limit; the error says when to try again.
            DeadlinePassed: the request's time was over before its turn came.
            Draining: the service is stopping.
        """
        began = self._clock()
        async with within(wish.deadline, "the tenant's limits were read"):
            policy = await self._policy_of(wish.tenant)
        self._refuse_when_closed()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = self._queue.enter(
            wish.tenant,
            policy,
            self._clock(),
            adapter=wish.adapter,
            input_tokens=max(1, wish.input_tokens),
            loads=wish.loads,
            again=wish.again,
            wake=lambda: _wake(turn),
        )
        try:
            if ticket.state is State.WAITING:
                await self._wait(turn, wish.deadline)
            if ticket.refusal is not None:
                raise ticket.refusal
            yield Admitted(self._queue, ticket, self._clock, (self._clock() - began) * 1e3)
        finally:
            self._queue.leave(ticket, self._clock())

    def counts(self) -> AdmissionCounts:
        """How many run and wait now."""
        return AdmissionCounts(self._queue.running, self._queue.waiting, self._queue.adapters)

    def close(self) -> None:
        """Turns away who still waits, and whoever comes; those that run keep their places."""
        self._closed = True
        for turn in tuple(self._waiters):
            _wake(turn)

    async def _wait(self, turn: "asyncio.Future[None]", deadline: float | None) -> None:
        self._waiters.add(turn)
        try:
            async with within(deadline, "the request waited for its turn"):
                await turn
        finally:
            self._waiters.discard(turn)
        self._refuse_when_closed()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Draining("the service is stopping; send the request again, another one will take it")


def _wake(turn: "asyncio.Future[None]") -> None:
    # Done already when its waiter was cancelled, or the service closed, in the same turn of the loop.
    if not turn.done():
        turn.set_result(None)
