"""What can be seen of requests and adapters while they run, as plain events; nothing of what is made of them.

Owns the events and the protocol of those who watch. Does not own how a request tells its story (`watch`), nor metrics, traces
or the access log (`serving_service.observe`). No event carries prompt text, a key or an error's message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from serving_service.engine.protocol import Tier

log = structlog.get_logger(__name__)


class Stage(StrEnum):
    """Parts of a request, in their order; each may be missing."""

    RESOLVE = "resolve"
    """Model text to adapter version."""
    QUEUE = "queue"
    """Waiting in admission."""
    LOAD = "load"
    """Making the adapter usable, from whatever tier."""
    GENERATE = "generate"
    """In the engine."""


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A request came in. `tenant` is empty for an operator on the base; `adapter` for the base and for no valid name."""

    call: str
    tenant: str
    adapter: str


@dataclass(frozen=True, slots=True)
class StageBegan:
    call: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class StageEnded:
    """`error` is the class of what ended it; empty when it went well."""

    call: str
    stage: Stage
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Produced:
    """The engine made tokens: the first ones, and from then on what came in about a second.

    Attributes:
        call: whose.
        tokens: how many since the last time.
        since_arrival: seconds; of the first ones, else None.
        gaps: seconds between each piece and the one before; empty for the first.
    """

    call: str
    tokens: int
    since_arrival: float | None
    gaps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CallEnded:
    """All there is to say of a request.

    Attributes:
        call: its id, which the caller was told.
        tenant, adapter: as in CallBegan.
        version: digest; empty for the base, and when no version was found.
        route: 'base', 'swapped' or 'merged'; empty when it ended before that was known.
        tier: where the adapter was found.
        prompt_tokens, completion_tokens: what was counted until the end.
        seconds: of each stage that it had.
        first_token_seconds: since arrival; None without a token.
        total_seconds: since arrival.
        outcome: 'ok', 'cancelled' (the caller went away) or an ErrorCode.
        finish_reason: as the caller was told; empty unless ok.
        error: class of the error; empty unless there was one.
    """

    call: str
    tenant: str
    adapter: str
    version: str
    route: str
    tier: Tier | None
    prompt_tokens: int
    completion_tokens: int
    seconds: dict[Stage, float]
    first_token_seconds: float | None
    total_seconds: float
    outcome: str
    finish_reason: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter was brought into `tier`, from the one below; the step took `seconds`. A slot has no `bytes` of its own: 0."""

    tier: Tier
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Evicted:
    """An adapter left `tier` and gave `bytes` back."""

    tier: Tier
    bytes: int


@dataclass(frozen=True, slots=True)
class MergedWeights:
    """An adapter's merged weights were brought, from the store or by merging here; it took `seconds`."""

    seconds: float
    from_store: bool


@dataclass(frozen=True, slots=True)
class CutOver:
    """Requests go to a merged engine from now on; it took `seconds` from the beginning of the merge."""

    seconds: float


@dataclass(frozen=True, slots=True)
class MergedFailed:
    """A version could not be merged, or its engine ended by itself.

    Attributes:
        state: that it was in.
        error: class of the error.
    """

    state: str
    error: str


@dataclass(frozen=True, slots=True)
class AutoChange:
    """An alias's traffic won it a merged engine, or lost it."""

    promoted: bool


Seen = (
    CallBegan
    | StageBegan
    | StageEnded
    | Produced
    | CallEnded
    | Loaded
    | Evicted
    | MergedWeights
    | CutOver
    | MergedFailed
    | AutoChange
)


class Observer(Protocol):
    """Watches. Called on the event loop: quick, and never waiting."""

    def see(self, event: Seen) -> None: ...


class Observers:
    """Tells several; one that fails is logged once and fails no request.

    Args:
        all_of_them: in the order in which they are told.
    """

    def __init__(self, all_of_them: Sequence[Observer] = ()) -> None:
        self._observers = tuple(all_of_them)
        self._failed: set[int] = set()

    def see(self, event: Seen) -> None:
        for observer in self._observers:
            try:
                observer.see(event)
            except Exception:
                if id(observer) not in self._failed:
                    self._failed.add(id(observer))
                    log.exception("an observer failed; further failures of it are not logged", observer=repr(observer))


NOBODY_WATCHES = Observers()
