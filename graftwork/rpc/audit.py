"""A call's part of the audit log: what is noted before it and after it.

Owns the protocol between the interceptor and whoever keeps the log (`adapter_store.api.audit_trail`), the look at a stream's
first message, and how a handler tells what it found before it changed it. Does not own which calls are audited (`graftwork.rpc.access`), nor entries or where they lie.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.auth import Principal

OK = "ok"
CANCELLED = "cancelled"
"""The caller left before the answer: it may have been carried out or not."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody makes an audited call.

    Attributes:
        principal: who.
        method: `/package.Service/Method`.
        peer: the address it comes from.
        request_id: names the call in the service's log.
    """

    principal: Principal
    method: str
    peer: str
    request_id: str


class Trail(Protocol):
    """Keeps the audit log. Both methods block for as long as a small file and a look into the store take, and neither raises."""

    def begin(self, attempt: Attempt, request: Any) -> Any:
        """Notes that a call is about to be carried out; returns what `end` is told. Of a stream there is no request yet: None."""
        ...

    def end(self, begun: Any, outcome: str, request: Any, answer: Any, before: Any) -> None:
        """Notes how it ended.

        Args:
            begun: from `begin`.
            outcome: OK, CANCELLED, or an `ErrorCode`'s value.
            request: the message, or a stream's first one; None when none came.
            answer: the message; None when there is none, or when it is a stream.
            before: what the handler found (`found_before`); None when it told nothing.
        """
        ...


@dataclass(slots=True)
class Audited:
    """A call on its way.

    Attributes:
        request: what the handler is given: the message, or the stream.
        answer: the handler's, once it is there.
        first: a stream's first message, or the message.
        before: what the handler found before it changed it.
    """

    request: Any
    answer: Any = None
    first: Any = None
    before: Any = None


_current: ContextVar[Audited | None] = ContextVar("audited_call", default=None)


def found_before(state: Any) -> None:
    """Called by a handler with what it is about to change, as it is; the call's entry tells it as 'from'.

    Only the handler can know: between a look of somebody else's and the change, others may have changed it. Outside an audited
    call it does nothing.
    """
    if (call := _current.get()) is not None:
        call.before = state


@asynccontextmanager
async def audited(trail: Trail | None, attempt: Attempt, request: Any, *, streamed: bool) -> AsyncIterator[Audited]:
    """Notes a call before it is carried out, and how it ended: a process that is killed in between has left a note.

    Args:
        trail: keeps the log; None keeps none.
        attempt: who makes which call.
        request: the message, or the stream of messages.
        streamed: which of the two.
    """
    call = Audited(request)
    if trail is None:
        yield call
        return
    if streamed:
        call.request = _noticing(call, request)
    else:
        call.first = request
    begun = await asyncio.to_thread(trail.begin, attempt, call.first)
    _current.set(call)  # each call runs in a task of its own, so nothing has to be taken back
    outcome = OK
    try:
        yield call
    except BaseException as error:
        outcome = _outcome(error)
        raise
    finally:
        # Shielded: a caller that leaves now must not leave the log without an end.
        await asyncio.shield(asyncio.to_thread(trail.end, begun, outcome, call.first, call.answer, call.before))


async def _noticing(call: Audited, messages: Any) -> AsyncIterator[Any]:
    async for message in messages:
        if call.first is None:
            call.first = message
        yield message


def _outcome(error: BaseException) -> str:
    if isinstance(error, GraftError):
        return error.code.value
    return ErrorCode.INTERNAL.value if isinstance(error, Exception) else CANCELLED
