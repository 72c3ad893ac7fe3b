"""An answer that comes piece by piece, for asyncio."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Self

from graftwork.sdk.answers import Answer, Collector, Piece


class AsyncAnswerStream(AsyncIterator[Piece]):
    """See `AnswerStream`. Use it as an async context manager, or `aclose` it, where the pieces are not read to the end."""

    def __init__(self, messages: AsyncGenerator[Any]) -> None:
        self._messages, self._collector = messages, Collector()

    async def __anext__(self) -> Piece:
        async for message in self._messages:
            if piece := self._collector.take(message):
                return piece
        raise StopAsyncIteration

    async def answer(self) -> Answer:
        """See `AnswerStream.answer`."""
        async for _ in self:
            pass
        return self._collector.answer()

    async def aclose(self) -> None:
        """See `AnswerStream.close`."""
        await self._messages.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
