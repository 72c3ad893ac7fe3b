"""A request under way: what it runs on, and the one place where its tokens are counted, whatever front end makes them.

Owns first token and timings. Does not own how it gets its place and its adapter (`generation`).
"""

import time
from dataclasses import dataclass

from serving_service.core.admission import Admitted
from serving_service.core.answers import Route, Started, Timings
from serving_service.core.watch import Watch
from serving_service.engine.protocol import LoraRef, Tier


@dataclass(slots=True)
class Opened:
    """A request under way: it holds its place and its adapter until the block of `Generation.open` ends.

    Attributes:
        tenant: whose prefix cache may be shared with it.
        route: how the answer is made.
        lora: what the engine takes; None is the base.
        template: the chat template that the adapter was trained with; None for the base.
        load_ms: what making the adapter resident took.
        arrived: monotonic seconds.
        watch: is told what happens to it.
        admitted: its place, where what it takes is charged.
        completion_tokens: of all its answers.
        first_token: monotonic seconds; 0 before there is one.
    """

    tenant: str
    route: Route
    lora: LoraRef | None
    template: str | None
    load_ms: float
    arrived: float
    watch: Watch
    admitted: Admitted
    completion_tokens: int = 0
    first_token: float = 0.0

    @property
    def request_id(self) -> str:
        """Names it in the engine, towards the caller and in the log."""
        return self.watch.id

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
        return Timings(self.admitted.queue_ms, self.load_ms, first, (now - self.arrived) * 1e3)
