"""A request under way: what it runs on, and the one place where its tokens are counted, whatever front end makes them.

Owns first token and timings. Does not own how it gets its place and its adapter (`generation`).
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from serving_service.core.admission import Admitted
from serving_service.core.answers import Route, Started, Timings
from serving_service.core.watch import Watch
from serving_service.engine.protocol import Engine, EngineUnavailable, LoraRef, Tier

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Place:
    """What a request runs on.

    Attributes:
        engine: what generates.
        route: how the answer is made.
        lora: what the engine takes; None is the base, or a merged engine.
        template: the chat template that the adapter was trained with; None for the base.
        tier: where the adapter was found; None for the base.
        load_ms: what making the adapter resident took.
        admitted: its turn, where what it takes is charged.
    """

    engine: Engine
    route: Route
    lora: LoraRef | None
    template: str | None
    tier: Tier | None
    load_ms: float
    admitted: Admitted


@dataclass(slots=True)
class Opened:
    """A request under way: it holds its place and its adapter until the block of `Generation.open` ends.

    Attributes:
        tenant: whose prefix cache may be shared with it.
        place: what it runs on.
        elsewhere: gives the place back and finds one on the swapped path.
        arrived: monotonic seconds.
        watch: is told what happens to it.
        completion_tokens: of all its answers.
        first_token: monotonic seconds; 0 before there is one.
        lora, template: of the place; plain, because they are asked for with every request.
    """

    tenant: str
    place: Place
    elsewhere: Callable[[], Awaitable[Place]]
    arrived: float
    watch: Watch
    completion_tokens: int = 0
    first_token: float = 0.0
    lora: LoraRef | None = field(init=False)
    template: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._settle(self.place)

    def _settle(self, place: Place) -> None:
        self.place, self.lora, self.template = place, place.lora, place.template
        self.watch.route, self.watch.tier = place.route.value, place.tier

    async def attempt(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Does work of which the caller sees nothing before it has ended; once more on the swapped path when the merged engine
        that it ran on has died."""
        try:
            return await work()
        except EngineUnavailable:
            if not await self.retreat():
                raise
            return await work()

    async def retreat(self) -> bool:
        """Moves a request of which its caller has seen nothing from a merged engine that is gone to the swapped path. What it
        was charged is taken back.

        Returns:
            False when it did not run on a merged engine, so there is nowhere to go.

        Raises:
            GraftError: of admission or residency.
        """
        if self.route is not Route.MERGED:
            return False
        self.admitted.annul(self.completion_tokens)
        self.watch.begins_again()
        self.completion_tokens, self.first_token = 0, 0.0
        self._settle(await self.elsewhere())
        return True

    @property
    def route(self) -> Route:
        """How the answer is made."""
        return self.place.route

    @property
    def admitted(self) -> Admitted:
        """Its turn, where what it takes is charged."""
        return self.place.admitted

    @property
    def request_id(self) -> str:
        """Names it in the engine, towards the caller and in the log."""
        return self.watch.id

    @property
    def newcomer(self) -> bool:
        """Its prompt goes before those of others."""
        return self.place.admitted.newcomer

    def crowds(self) -> bool:
        """Whether its tenant runs more than its share, and others come: its answer may come in bundles."""
        return self.place.admitted.crowds()

    @property
    def version(self) -> str:
        """Digest; empty for the base."""
        return self.watch.version

    @property
    def tier(self) -> Tier | None:
        """Where the adapter was found."""
        return self.watch.tier

    @property
    def prompt_tokens(self) -> int:
        return self.watch.prompt_tokens

    def prompted(self, tokens: int) -> None:
        """Reports the length of a prompt, before it goes to the engine."""
        self.watch.prompt_tokens += tokens
        self.admitted.rendered(self.watch.prompt_tokens)

    def answered(self, tokens: int, visible: bool = True, finish_reason: str | None = None) -> None:
        """Reports tokens of an answer as they come; not `visible` while they make no text yet."""
        if visible and not self.first_token:
            self.first_token = time.monotonic()
        self.completion_tokens += tokens
        self.watch.produced(tokens)
        self.admitted.served(tokens)
        if finish_reason:
            self.watch.finish_reason = finish_reason

    def failed(self, error: BaseException) -> None:
        """Reports what ended it, where the block itself ends without an error."""
        self.watch.failed(error)

    def started(self) -> Started:
        return Started(self.request_id, self.version, self.route, self.tier)

    def timings(self) -> Timings:
        now = time.monotonic()
        first = (self.first_token - self.arrived) * 1e3
        return Timings(self.admitted.queue_ms, self.place.load_ms, first, (now - self.arrived) * 1e3)
