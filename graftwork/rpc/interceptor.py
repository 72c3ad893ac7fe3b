"""The one server interceptor: request id, caller and role, audit log, domain errors to statuses, access log.

Without it a handler's exception would reach the client as UNKNOWN with its class and text, which leaks. It is one
interceptor rather than a decorator per method so that no method can forget it.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog

from graftwork.errors import ErrorCode, GraftError
from graftwork.late_lines import log_late
from graftwork.rpc.access import access_of, is_audited, require_access
from graftwork.rpc.audit import Attempt, Audited, Trail, audited
from graftwork.rpc.auth import Authenticator, bearer_token, current_principal, set_principal
from graftwork.rpc.door import Door, address_of, door_of
from graftwork.rpc.observing import CallObserver
from graftwork.rpc.reading import each_readable, later, readable
from graftwork.rpc.status import ERROR_CODE_KEY, REQUEST_ID_KEY, RETRY_AFTER_KEY, STATUS
from graftwork.surroundings import named
from graftwork.trace_context import set_trace_headers

log = structlog.get_logger("graftwork.rpc")

PUBLIC_SERVICES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
)
"""Answer without a key: probes and reflection tools have none, and they show no tenant's data."""

if TYPE_CHECKING:  # generic in the type stubs only; at run time these classes take no parameters
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any] | None
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server.

    Args:
        authenticator: turns the bearer token into the caller; the door that other listeners share, or what gets one.
        observers: are told of each call.
        trail: keeps the audit log; None keeps none.
    """

    def __init__(
        self,
        authenticator: Authenticator | Door,
        observers: Sequence[CallObserver] = (),
        trail: Trail | None = None,
    ) -> None:
        self._door, self._observers, self._trail = door_of(authenticator), observers, trail
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        """By method: its handler as it was found, and as it is called. A server has few, and finds them again for each call."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Replaces the handler by one that authenticates, maps errors and logs."""
        handler = await continuation(handler_call_details)
        if handler is None:  # unknown method: gRPC answers UNIMPLEMENTED by itself
            return handler
        method = handler_call_details.method
        found, wrapped = self._wrapped.get(method, (None, None))
        if found is not handler:
            wrapped = self._wrap_handler(method, handler)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _wrap_handler(self, method: str, handler: Any) -> Handler:
        public = method.lstrip("/").split("/")[0] in PUBLIC_SERVICES
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[(handler.request_streaming, handler.response_streaming)]
        inner: Any = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
        # A stream may also be a coroutine that writes to its context: gRPC's own health watch is one.
        generates = handler.response_streaming and inspect.isasyncgenfunction(inner)
        wrap: Any = self._wrap_stream if generates else self._wrap
        wrapped = wrap(inner, _Method(method, public, handler.request_streaming))
        return make(
            wrapped,
            request_deserializer=later(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _wrap(self, inner: Any, method: _Method) -> Callable[[Any, Context], Awaitable[Any]]:
        async def call(request: Any, context: Context) -> Any:
            entry = _Call(method.name, context, self._observers, quiet=method.public)
            try:
                async with self._admitted(entry, method, request) as admitted:
                    answer = admitted.answer = await inner(admitted.request, context)
            except BaseException as error:
                await entry.fail(error)
                raise
            entry.done("OK")
            return answer

        return call

    def _wrap_stream(self, inner: Any, method: _Method) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            entry = _Call(method.name, context, self._observers, quiet=method.public)
            try:
                # A cancelled call stops us at `yield`; without aclosing the handler would keep what it holds (an adapter's
                # lease, a running generation) until the garbage collector finds it.
                async with (
                    self._admitted(entry, method, request) as admitted,
                    aclosing(inner(admitted.request, context)) as answers,
                ):
                    async for answer in answers:
                        yield answer
            except BaseException as error:
                await entry.fail(error)
                raise
            entry.done("OK")

        return call

    @asynccontextmanager
    async def _admitted(self, entry: _Call, method: _Method, request: Any) -> AsyncIterator[Audited]:
        """Lets the caller in, sets it for the handler, and writes to the audit log what it does."""
        if method.public:
            yield Audited(_read(request, method))
            return
        principal = await self._door.admit(bearer_token(entry.metadata), entry.peer)
        set_principal(principal)
        request = _read(request, method)
        attempt = Attempt(principal, method.name, address_of(entry.peer), entry.id)
        trail = self._trail if is_audited(method.name) else None
        # The role is checked inside: what a viewer tried is an entry too.
        async with audited(trail, attempt, request, streamed=method.streamed) as call:
            require_access(principal, access_of(method.name))
            yield call


def _read(request: Any, method: _Method) -> Any:
    return each_readable(request) if method.streamed else readable(request)


@dataclass(frozen=True, slots=True)
class _Method:
    """What the interceptor knows of a method."""

    name: str
    public: bool
    """Needs no key."""
    streamed: bool
    """Takes a stream of messages."""


class _Call:
    """One call's id, clock and end."""

    def __init__(self, method: str, context: Context, observers: Sequence[CallObserver], quiet: bool) -> None:
        self.metadata: dict[str, str] = {
            str(key): str(value)
            for key, value in (context.invocation_metadata() or ())
            if not str(key).endswith("-bin")
        }
        self.id = uuid.uuid4().hex[:16]
        self.peer: str = context.peer() or ""
        self._method = method
        self._context = context
        self._level = logging.DEBUG if quiet else logging.INFO  # probes come every second and say nothing
        self._start = time.monotonic()
        # Each call runs in a task of its own, so nothing has to be taken back.
        set_trace_headers(self.metadata)
        structlog.contextvars.bind_contextvars(request_id=self.id)  # of every line that is written under this call
        self._ends = [observer.began(method) for observer in observers]

    def done(self, status: str) -> None:
        for ended in self._ends:
            ended(status)
        try:
            principal = current_principal()
            caller = principal.tenant or principal.role.value
        except GraftError:
            caller = "-"
        ms = round((time.monotonic() - self._start) * 1e3, 1)
        fields = {"method": self._method, "status": status, "caller": caller, "request_id": self.id, "ms": ms}
        log_late(log, self._level, "call", lambda: fields)

    async def fail(self, error: BaseException) -> None:
        """Ends the call with the status of a domain error, or with INTERNAL and a fixed text for an unknown one."""
        if (known := named(error)) is not error:
            log.error("the machine refused", method=self._method, cause=str(error), request_id=self.id)
            error = known
        if isinstance(error, GraftError):
            row = STATUS[error.code]
            self.done(row.grpc.name)
            # What the handler has set already stays; abort would drop it.
            set_before = tuple(self._context.trailing_metadata() or ())
            trailing = (*set_before, (REQUEST_ID_KEY, self.id), (ERROR_CODE_KEY, error.code.value))
            if error.retry_after_seconds is not None:
                # Rounded up: a caller that comes back a moment early is refused again.
                trailing += ((RETRY_AFTER_KEY, str(max(1, math.ceil(error.retry_after_seconds * 1e3)))),)
            await self._context.abort(row.grpc, str(error), trailing)
        elif isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            self.done("CANCELLED" if not isinstance(error, Exception) else "ABORTED")
        else:
            log.exception("unexpected error", method=self._method, request_id=self.id)
            self.done("INTERNAL")
            trailing = ((REQUEST_ID_KEY, self.id), (ERROR_CODE_KEY, ErrorCode.INTERNAL.value))
            text = f"internal error; the service's log has the cause under request id {self.id}"
            await self._context.abort(grpc.StatusCode.INTERNAL, text, trailing)
