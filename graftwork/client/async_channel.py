"""One service's channel for asyncio; options, key and TLS are `channel.Channel`'s."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from graftwork.client.channel import OPTIONS, Identity, credentials
from graftwork.client.errors import from_call


class AsyncChannel:
    """A connection to one service; see `Channel`."""

    def __init__(
        self, target: str, api_key: str | None, tls_ca: Path | None = None, identity: Identity | None = None
    ) -> None:
        self.target = target
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        if tls_ca:
            self.channel = grpc.aio.secure_channel(target, credentials(tls_ca, identity), OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(target, OPTIONS)

    async def call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        """Makes one try of a call with one answer; `timeout` in seconds.

        Raises:
            RemoteError: a subclass by code.
        """
        try:
            return await method(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_call(error, self.target) from None

    async def stream(self, method: Callable[..., Any], request: Any, timeout: float | None) -> AsyncGenerator[Any]:
        """Makes a server-streaming call; closing the generator cancels it.

        Raises:
            RemoteError: while iterating.
        """
        call = method(request, timeout=timeout, metadata=self._metadata)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_call(error, self.target) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        await self.channel.close()
