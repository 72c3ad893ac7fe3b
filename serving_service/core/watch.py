"""What a request tells its story to; whoever watches is told what they need, when it is worth a word.

Owns when and what is told. Does not own the events (`observing`) or what is made of them (`serving_service.observe`).
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from graftwork.errors import ErrorCode, GraftError
from serving_service.core.observing import CallBegan, CallEnded, Observer, Produced, Stage, StageBegan, StageEnded
from serving_service.engine.protocol import Tier

_TELL_EVERY_S = 1.0  # of the tokens after the first


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
    _told: float = 0.0
    _tokens: int = 0
    _gaps: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.observer.see(CallBegan(self.id, self.tenant, self.adapter))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gaps:
            self._tell(self._last)
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
            seconds = time.monotonic() - began
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            self.observer.see(StageEnded(self.id, stage, seconds, name))

    def failed(self, error: BaseException) -> None:
        """Tells what ended it, where the context ends without an error; the first counts."""
        self._error = self._error or error

    def begins_again(self) -> None:
        """Forgets what was made so far: nothing of it has reached the caller, and it will be made anew."""
        self.prompt_tokens = self.completion_tokens = self._tokens = 0
        self.finish_reason, self._error, self._first = "", None, None
        self._gaps.clear()

    def produced(self, tokens: int) -> None:
        """Takes tokens that the engine has just made; called for each piece of every answer, so it has to be cheap."""
        if not tokens:
            return
        now = time.monotonic()
        self.completion_tokens += tokens
        if self._first is None:
            self._first, self._last, self._told = now - self._arrived, now, now
            self.observer.see(Produced(self.id, tokens, self._first, ()))
            return
        self._tokens += tokens
        self._gaps.append(now - self._last)
        self._last = now
        if now - self._told >= _TELL_EVERY_S:
            self._tell(now)

    def _tell(self, now: float) -> None:
        """Tells what was gathered: a word for every token costs as much as all the rest of what is done for it here."""
        self.observer.see(Produced(self.id, self._tokens, None, tuple(self._gaps)))
        self._gaps.clear()
        self._told, self._tokens = now, 0


def _outcome(error: BaseException | None) -> str:
    if isinstance(error, GraftError):
        return error.code.value
    # A stream that its reader closed, or a task that was cancelled; anything else is nobody's intention.
    return ErrorCode.INTERNAL.value if isinstance(error, Exception) else ErrorCode.CANCELLED.value
