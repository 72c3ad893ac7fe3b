"""The load, and what is measured of it: the same code for every side, whatever carries the requests.

Owns prompts, concurrency and clocks. A `Send` sends one request and yields once for each piece that comes back.
"""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any

Send = Callable[[list[int], int], AsyncIterator[object]]
"""Prompt tokens and how many tokens to generate."""


@dataclass(frozen=True, slots=True)
class Load:
    """One round of one side.

    Attributes:
        probes: requests one after the other, for the time to the first token.
        requests, concurrency: of the throughput.
        prompt, answer: tokens.
        vocabulary: tokens to draw prompts from.
        seed: another one for each round and side, so that no prompt was seen before.
    """

    probes: int
    requests: int
    concurrency: int
    prompt: int
    answer: int
    vocabulary: int
    seed: int

    def prompts(self) -> list[list[int]]:
        draw = random.Random(self.seed)
        count = self.probes + self.requests
        return [[draw.randrange(10, self.vocabulary) for _ in range(self.prompt)] for _ in range(count)]

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one round: milliseconds to the first token with nothing else going on; tokens a second under load."""

    first_token_ms: float
    tokens_per_s: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


async def measure(load: Load, send: Send) -> Figures:
    """Runs one round."""
    prompts = load.prompts()
    waits = [await _first(send, prompt) for prompt in prompts[: load.probes]]
    queue: Any = iter(prompts[load.probes :])
    began = time.perf_counter()

    async def worker() -> None:
        for prompt in queue:  # shared: each takes the next one
            async for _ in send(prompt, load.answer):
                pass

    await asyncio.gather(*(worker() for _ in range(load.concurrency)))
    seconds = time.perf_counter() - began
    return Figures(statistics.median(waits) * 1e3, load.requests * load.answer / seconds)


async def _first(send: Send, prompt: list[int]) -> float:
    began = time.perf_counter()
    pieces = send(prompt, 4)
    await anext(aiter(pieces))
    seconds = time.perf_counter() - began
    async for _ in pieces:
        pass
    return seconds


def seeds() -> Callable[[], int]:
    """Numbers that no other round has."""
    return itertools.count(random.SystemRandom().randrange(1 << 30)).__next__
