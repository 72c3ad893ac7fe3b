"""Calls that stream: what a page shows live, on the event loop, ended when the browser goes away.

The client's own streams block a thread each, which a few forgotten tabs would use up; here a stream costs a connection.
Owns how a service's stream becomes server-sent events. Does not own what is in them.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from fastapi.responses import StreamingResponse

from graftwork.client.errors import RemoteError, from_call
from graftwork.console.connections import stream_channel
from graftwork.console.visitor import Visitor
from graftwork.errors import GraftError
from graftwork.v1 import serving_pb2, serving_pb2_grpc, trainer_pb2, trainer_pb2_grpc

_HEARTBEAT_S = 15.0
"""A comment after so long a silence: proxies keep the connection, and a browser that went away is noticed."""
RETRY_MS = 2000
"""After which a browser takes up a stream that broke."""


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event.

    Attributes:
        name: what the page listens for.
        data: any JSON value.
        id: sent back by the browser as Last-Event-ID when it reconnects.
    """

    name: str
    data: Any
    id: int | None = None

    def encode(self) -> bytes:
        number = f"id: {self.id}\n" if self.id is not None else ""
        return f"{number}event: {self.name}\ndata: {json.dumps(self.data, separators=(',', ':'))}\n\n".encode()


async def watch_job(visitor: Visitor, name: str, after: int = 0) -> AsyncGenerator[trainer_pb2.JobEvent, None]:
    """Yields a job's events after a number until its last. Raises RemoteError."""
    trainer, _ = visitor.settings.addresses()
    async with stream_channel(visitor.settings, trainer) as channel:
        stub: Any = trainer_pb2_grpc.TrainerServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.WatchJob(trainer_pb2.WatchJobRequest(name=name, after=after), metadata=_metadata(visitor))
        async with aclosing(_messages(call, trainer)) as messages:
            async for event in messages:
                yield event


async def generate(
    visitor: Visitor, request: serving_pb2.GenerateRequest
) -> AsyncGenerator[serving_pb2.GenerateResponse, None]:
    """Yields an answer's pieces as they come; closing it stops the generation. Raises RemoteError."""
    _, serving = visitor.settings.addresses()
    async with stream_channel(visitor.settings, serving) as channel:
        stub: Any = serving_pb2_grpc.ServingServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.Generate(request, metadata=_metadata(visitor))
        async with aclosing(_messages(call, serving)) as messages:
            async for part in messages:
                yield part


def event_stream(visitor: Visitor, events: AsyncGenerator[Event, None]) -> StreamingResponse:
    """Answers with events until they end, the browser leaves or the session does.

    An error becomes an event `trouble` with `message` and `again` (whether to reconnect); the last event of a whole stream
    is `end`, so that the page does not reconnect.
    """
    return StreamingResponse(
        _encoded(visitor, events), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _encoded(visitor: Visitor, events: AsyncGenerator[Event, None]) -> AsyncIterator[bytes]:
    yield f"retry: {RETRY_MS}\n\n".encode()
    try:
        with visitor.session.one_stream():
            async with aclosing(_with_heartbeats(events)) as beating:
                async for event in beating:
                    if not visitor.is_signed_in:
                        yield Event(
                            "trouble", {"message": "your session has ended; sign in again", "again": False}
                        ).encode()
                        return
                    yield event.encode() if event else b": alive\n\n"
            yield Event("end", None).encode()
    except RemoteError as error:
        yield Event(
            "trouble", {"message": str(error), "again": error.code.value in ("unavailable", "exhausted")}
        ).encode()
    except GraftError as error:
        yield Event("trouble", {"message": str(error), "again": False}).encode()


async def _with_heartbeats(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event | None, None]:
    """Yields the events, and None after each silence."""
    following: asyncio.Task[Event] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait((following,), timeout=_HEARTBEAT_S)
            if not done:
                yield None
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield event
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()


def _metadata(visitor: Visitor) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {visitor.session.key}"),)


async def _messages(call: Any, target: str) -> AsyncGenerator[Any, None]:
    try:
        async for message in call:
            yield message
    except grpc.RpcError as error:
        raise from_call(error, target) from None
    finally:
        call.cancel()
