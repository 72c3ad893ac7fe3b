"""What can be seen of requests and adapters while they run, as plain events; nothing of what is made of them.

Owns the events, the protocol of those who watch, and `Watch`, which a request tells its story to. Does not own metrics,
traces or the access log (`serving_service.observe`). No event carries prompt text, a key or an error's message.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

import structlog

from graftwork.errors import ErrorCode, GraftError
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
    """The engine made tokens.

    Attributes:
        call: whose.
        tokens: how many since the last time.
        since_arrival: seconds; of the first ones, else None.
        gap: seconds since the last ones; None for the first.
    """

    call: str
    tokens: int
    since_arrival: float | None
    gap: float | None


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
    """An adapter was brought into `tier`, from the one below; the step took `seconds`."""

    tier: Tier
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Evicted:
    """An adapter left `tier` and gave `bytes` back."""

    tier: Tier
    bytes: int


Seen = CallBegan | StageBegan | StageEnded | Produced | CallEnded | Loaded | Evicted


class Observer(Protocol):
    """Watches. Called on the event loop, for each token too: quick, and never waiting."""

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


@dataclass(slots=True)
class Watch:
    """One request's story; used as a context manager around all of it.

    Attributes:
        observer: who is told.
        tenant, adapter: as in CallBegan.
        id: names the request everywhere: towards the caller, in the engine, in the log.
        version, route, tier, prompt_tokens: set as they become known; see CallEnded.
        finish_reason: set once nothing more can go wrong.
    """

    observer: Observer
    tenant: str
    adapter: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    version: str = ""
    route: str = ""
    tier: Tier | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    seconds: dict[Stage, float] = field(default_factory=dict)
    _error: BaseException | None = None
    _arrived: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _last: float = 0.0

    def __enter__(self) -> Self:
        self.observer.see(CallBegan(self.id, self.tenant, self.adapter))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        error = self._error or error
        # A caller that leaves once it has everything does not change how the request ended; one that leaves before does.
        ended = bool(self.finish_reason) and self._error is None
        outcome = "ok" if ended else _outcome(error)
        self.observer.see(
            CallEnded(
                self.id,
                self.tenant,
                self.adapter,
                self.version,
                self.route,
                self.tier,
                self.prompt_tokens,
                self.completion_tokens,
                self.seconds,
                self._first,
                time.monotonic() - self._arrived,
                outcome,
                self.finish_reason if ended else "",
                type(error).__name__ if isinstance(error, Exception) and outcome != "ok" else "",
            )
        )

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Covers one stage; it ends with the block, whatever ends that."""
        began = time.monotonic()
        self.observer.see(StageBegan(self.id, stage))
        name = ""
        try:
            yield
        except Exception as error:
            name = type(error).__name__
            raise
        finally:
            self.seconds[stage] = time.monotonic() - began
            self.observer.see(StageEnded(self.id, stage, self.seconds[stage], name))

    def failed(self, error: BaseException) -> None:
        """Tells what ended it, where the context ends without an error; the first counts."""
        self._error = self._error or error

    def produced(self, tokens: int) -> None:
        """Tells of tokens that the engine has just made."""
        if not tokens:
            return
        now = time.monotonic()
        first, gap = (now - self._arrived, None) if self._first is None else (None, now - self._last)
        self._first, self._last = self._first if first is None else first, now
        self.completion_tokens += tokens
        self.observer.see(Produced(self.id, tokens, first, gap))


def _outcome(error: BaseException | None) -> str:
    if isinstance(error, GraftError):
        return error.code.value
    # A stream that its reader closed, or a task that was cancelled; anything else is nobody's intention.
    return ErrorCode.INTERNAL.value if isinstance(error, Exception) else ErrorCode.CANCELLED.value
