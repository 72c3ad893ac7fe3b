"""Requests at a service and what their callers saw. asyncio, one process; the same load on each side of a comparison."""

import asyncio
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grpc.aio

from graftwork.v1 import serving_pb2, serving_pb2_grpc


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        tenant, adapter: whose and which.
        prompt: as it is.
        max_tokens: of the answer.
        at: seconds after the start of the load.
    """

    tenant: str
    adapter: str
    prompt: str
    max_tokens: int
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back; seconds since the call was made.

    Attributes:
        tenant: who asked.
        first: until the first text.
        whole: until the end of the answer.
        gap: the longest time without text after the first; 0 when there was no second.
        ended: when, by the load's clock.
        tokens: prompt and answer.
        queue: in admission, as the service says.
    """

    tenant: str
    first: float
    whole: float
    gap: float
    ended: float
    tokens: int
    queue: float


class Caller:
    """Calls one service.

    Args:
        address: `host:port`.
        keys: tenants' API keys.
    """

    def __init__(self, address: str, keys: dict[str, str]) -> None:
        self._keys = keys
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = serving_pb2_grpc.ServingServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def ask(self, ask: Ask, began: float) -> Seen:
        """Makes one call; raises grpc's error when it fails."""
        sampling = serving_pb2.Sampling(temperature=0, max_tokens=ask.max_tokens)
        request = serving_pb2.GenerateRequest(model=ask.adapter, prompt=ask.prompt, sampling=sampling)
        metadata = (("authorization", f"Bearer {self._keys[ask.tenant]}"),)
        called, first, before, gap = time.perf_counter(), 0.0, 0.0, 0.0
        async for piece in self._stub.Generate(request, metadata=metadata):
            since = time.perf_counter() - called
            first, gap, before = first or since, max(gap, since - before) if first else 0.0, since
            last = piece
        whole = time.perf_counter() - called
        finished = last.finished
        tokens = finished.usage.prompt_tokens + finished.usage.completion_tokens
        queue = finished.timings.queue_ms / 1e3
        return Seen(ask.tenant, first, whole, gap, time.perf_counter() - began, tokens, queue)

    async def on_time(self, asks: Iterable[Ask]) -> list[Seen]:
        """Makes each call at its time, whatever became of the others: load that does not yield to a slow service."""
        began = time.perf_counter()

        async def one(ask: Ask) -> Seen:
            await asyncio.sleep(max(0.0, began + ask.at - time.perf_counter()))
            return await self.ask(ask, began)

        return await asyncio.gather(*(one(ask) for ask in asks))

    async def flood(self, asks: Sequence[Ask], at_once: int, stop: asyncio.Event) -> list[Seen]:
        """Keeps `at_once` calls in the service until `stop`; those that are in it then are not waited for."""
        began, seen = time.perf_counter(), list[Seen]()
        numbers = iter(range(10**9))

        async def one() -> None:
            while True:
                seen.append(await self.ask(asks[next(numbers) % len(asks)], began))

        tasks = [asyncio.create_task(one()) for _ in range(at_once)]
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        stopped.cancel()
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return seen


def percentile(values: Sequence[float], percent: int) -> float:
    """Of at least two values; interpolated."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def warm_up(caller: Caller, asks: Sequence[Ask]) -> None:
    """Brings every adapter in before anything is measured."""
    for ask in asks:
        await caller.ask(ask, 0.0)
    await asyncio.gather(*(caller.ask(ask, 0.0) for ask in asks))
