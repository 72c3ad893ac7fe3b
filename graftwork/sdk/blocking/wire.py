"""Makes calls over blocking channels: time limits, and repeats of what may be repeated."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, TypeVar

from graftwork.client.channel import Channel
from graftwork.client.errors import RemoteError
from graftwork.sdk.calls import Api, Call, Listing, Patience, Stream, explained
from graftwork.sdk.places import Places
from graftwork.v1 import registry_pb2_grpc, serving_pb2_grpc, trainer_pb2_grpc

Result = TypeVar("Result")


class Wire:
    """Connections to both services.

    Args:
        places: where they are.
        timeout: seconds of a call with one answer, all tries together.
        patience: how often a call is repeated.
    """

    def __init__(self, places: Places, timeout: float, patience: Patience) -> None:
        self._timeout, self._patience = timeout, patience
        self._trainer = Channel(places.trainer, places.api_key, places.tls_ca, places.identity)
        self._serving = Channel(places.serving, places.api_key, places.tls_ca, places.identity)
        self._stubs: dict[Api, Any] = {
            Api.TRAINER: trainer_pb2_grpc.TrainerServiceStub(self._trainer.channel),
            Api.REGISTRY: registry_pb2_grpc.RegistryServiceStub(self._trainer.channel),
            Api.SERVING: serving_pb2_grpc.ServingServiceStub(self._serving.channel),
            Api.REGISTRY_OF_SERVING: registry_pb2_grpc.RegistryServiceStub(self._serving.channel),
        }

    def close(self) -> None:
        self._trainer.close()
        self._serving.close()

    def call(self, call: Call[Result], timeout: float | None = None) -> Result:
        """Makes a call; `timeout` in seconds, None: the call's or the client's. Raises RemoteError."""
        method = getattr(self._stubs[call.api], call.method)
        seconds = timeout or call.timeout_s or self._timeout
        ends = time.monotonic() + seconds
        tries = 0
        while True:
            tries += 1
            try:
                left = max(0.001, ends - time.monotonic())
                answer: Any = self._channel(call.api).call(method, call.message(), idempotent=False, timeout=left)
            except RemoteError as error:
                wait = self._patience.wait(error, tries, ends - time.monotonic()) if call.repeatable else None
                if wait is None:
                    raise explained(error, call.method, seconds) from None
                time.sleep(wait)
            else:
                return call.convert(answer)

    def list(self, listing: Listing[Result]) -> Iterator[Result]:
        """Yields results page by page; a page is asked for when the one before is used up."""
        token = ""
        while True:
            items, token = self.call(listing.page(token))
            yield from items
            if not token:
                return

    def stream(self, stream: Stream) -> Generator[Any]:
        """Yields messages; closing the iterator ends the call. Repeated only as long as nothing has arrived."""
        method = getattr(self._stubs[stream.api], stream.method)
        ends = time.monotonic() + stream.timeout_s if stream.timeout_s is not None else float("inf")
        tries, arrived = 0, False
        while True:
            tries += 1
            left = None if stream.timeout_s is None else max(0.001, ends - time.monotonic())
            try:
                with closing(self._channel(stream.api).stream(method, stream.message(), left)) as messages:
                    for message in messages:
                        arrived = True
                        yield message
                return
            except RemoteError as error:
                wait = None if arrived else self._patience.wait(error, tries, ends - time.monotonic())
                if wait is None:
                    raise explained(error, stream.method, stream.timeout_s) from None
                time.sleep(wait)

    def _channel(self, api: Api) -> Channel:
        return self._serving if api in (Api.SERVING, Api.REGISTRY_OF_SERVING) else self._trainer
