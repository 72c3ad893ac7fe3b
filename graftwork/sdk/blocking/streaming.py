"""An answer that comes piece by piece."""

from collections.abc import Generator, Iterator
from typing import Any, Self

from graftwork.sdk.answers import Answer, Collector, Piece


class AnswerStream(Iterator[Piece]):
    """Iterates over an answer's pieces as they come. Closing it, or leaving it as a context manager, stops the generation.

    Raises, while iterating, what `Client.generate` raises.
    """

    def __init__(self, messages: Generator[Any]) -> None:
        self._messages, self._collector = messages, Collector()

    def __next__(self) -> Piece:
        for message in self._messages:
            if piece := self._collector.take(message):
                return piece
        raise StopIteration

    def answer(self) -> Answer:
        """Waits for the rest and returns the whole answer; after `close`, what had come."""
        for _ in self:
            pass
        return self._collector.answer()

    def close(self) -> None:
        """Stops the generation, unless it has ended."""
        self._messages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
