"""Makes calls over asyncio's channels: time limits, and repeats of what may be repeated."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from graftwork.client.async_channel import AsyncChannel
from graftwork.client.errors import RemoteError
from graftwork.sdk.calls import Api, Call, Listing, Patience, Stream, explained
from graftwork.sdk.places import Places
from graftwork.v1 import registry_pb2_grpc, serving_pb2_grpc, trainer_pb2_grpc

Result = TypeVar("Result")


class AsyncWire:
    """Like `blocking.wire.Wire`; bound to the event loop that runs when it is made."""

    def __init__(self, places: Places, timeout: float, patience: Patience) -> None:
        self._timeout, self._patience = timeout, patience
        self._trainer = AsyncChannel(places.trainer, places.api_key, places.tls_ca, places.identity)
        self._serving = AsyncChannel(places.serving, places.api_key, places.tls_ca, places.identity)
        self._stubs: dict[Api, Any] = {
            Api.TRAINER: trainer_pb2_grpc.TrainerServiceStub(self._trainer.channel),
            Api.REGISTRY: registry_pb2_grpc.RegistryServiceStub(self._trainer.channel),
            Api.SERVING: serving_pb2_grpc.ServingServiceStub(self._serving.channel),
            Api.REGISTRY_OF_SERVING: registry_pb2_grpc.RegistryServiceStub(self._serving.channel),
        }

    async def close(self) -> None:
        await self._trainer.close()
        await self._serving.close()

    async def call(self, call: Call[Result], timeout: float | None = None) -> Result:
        """Makes a call; see `Wire.call`."""
        method = getattr(self._stubs[call.api], call.method)
        seconds = timeout or call.timeout_s or self._timeout
        ends = time.monotonic() + seconds
        tries = 0
        while True:
            tries += 1
            request = _sendable(call.request)
            try:
                left = max(0.001, ends - time.monotonic())
                answer = await self._channel(call.api).call(method, request, timeout=left)
            except RemoteError as error:
                wait = self._patience.wait(error, tries, ends - time.monotonic()) if call.repeatable else None
                if wait is None:
                    raise explained(error, call.method, seconds) from None
                await asyncio.sleep(wait)
            else:
                return call.convert(answer)

    async def list(self, listing: Listing[Result]) -> AsyncIterator[Result]:
        """Yields results page by page; see `Wire.list`."""
        token = ""
        while True:
            items, token = await self.call(listing.page(token))
            for item in items:
                yield item
            if not token:
                return

    async def stream(self, stream: Stream) -> AsyncGenerator[Any]:
        """Yields messages; see `Wire.stream`."""
        method = getattr(self._stubs[stream.api], stream.method)
        ends = time.monotonic() + stream.timeout_s if stream.timeout_s is not None else float("inf")
        tries, arrived = 0, False
        while True:
            tries += 1
            left = None if stream.timeout_s is None else max(0.001, ends - time.monotonic())
            request = _sendable(stream.request)
            try:
                async with aclosing(self._channel(stream.api).stream(method, request, left)) as messages:
                    async for message in messages:
                        arrived = True
                        yield message
                return
            except RemoteError as error:
                wait = None if arrived else self._patience.wait(error, tries, ends - time.monotonic())
                if wait is None:
                    raise explained(error, stream.method, stream.timeout_s) from None
                await asyncio.sleep(wait)

    def _channel(self, api: Api) -> AsyncChannel:
        return self._serving if api in (Api.SERVING, Api.REGISTRY_OF_SERVING) else self._trainer


def _sendable(request: Any) -> Any:
    """What to send in one try: the message, or a new stream of messages."""
    return _read_aside(request) if callable(request) else request


async def _read_aside(pieces: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]:
    """Reads a file's pieces in a thread, so that a slow disk does not hold the event loop up."""
    left = pieces()
    end = object()
    while (piece := await asyncio.to_thread(next, left, end)) is not end:
        yield piece
