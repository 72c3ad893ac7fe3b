"""The load, and what is measured of it: the same code for every side, whatever carries the requests.

Owns prompts, concurrency and clocks. A `Send` sends one request and yields once for each piece that comes back.
"""

import asyncio
import itertools
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Send = Callable[[list[int], int], AsyncIterator[object]]
"""Prompt tokens and how many tokens to generate."""
PROBE_ANSWER = 4
"""Tokens that a request for the time to the first token has: an engine must have room for them behind the prompt."""


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
    """Of one round.

    Attributes:
        first_token_ms: milliseconds to the first token, with nothing else going on.
        tokens_per_s: under load.
        front_us: CPU microseconds a token, under load, of the process in front of the engine's.
        client_us: likewise of the process that makes the load; 0 where it is the one in front.
        engine_us: likewise of the engine's.
        others: share of the machine's CPUs that anybody else used meanwhile, a virtual machine's host included.
    """

    first_token_ms: float
    tokens_per_s: float
    front_us: float
    client_us: float
    engine_us: float
    others: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


async def measure(load: Load, send: Send, front: int) -> Figures:
    """Runs one round.

    Args:
        load: of this round.
        send: to the side.
        front: id of the process in front of the engine; its children are the engine's.
    """
    prompts = load.prompts()
    waits = [await _first(send, prompt) for prompt in prompts[: load.probes]]
    queue: Any = iter(prompts[load.probes :])
    before, began = _Used.now(front), time.perf_counter()

    async def worker() -> None:
        for prompt in queue:  # shared: each takes the next one
            async for _ in send(prompt, load.answer):
                pass

    await asyncio.gather(*(worker() for _ in range(load.concurrency)))
    seconds, used = time.perf_counter() - began, _Used.now(front).since(before)
    tokens = load.requests * load.answer
    client, engine = (used.client if front != os.getpid() else 0.0), used.tree - used.front
    return Figures(
        first_token_ms=statistics.median(waits) * 1e3,
        tokens_per_s=tokens / seconds,
        front_us=used.front / tokens * 1e6,
        client_us=client / tokens * 1e6,
        engine_us=engine / tokens * 1e6,
        others=max(0.0, used.machine - used.tree - client) / (seconds * (os.cpu_count() or 1)),
    )


@dataclass(frozen=True, slots=True)
class _Used:
    """CPU seconds so far: of the process in front of an engine, of it and its children, of this one, of all and the host's."""

    front: float
    tree: float
    client: float
    machine: float

    @classmethod
    def now(cls, front: int) -> "_Used":
        # Of all there is: user, nice, system, then without idle and waiting, interrupts and what the host took.
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        machine = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return cls(cpu_seconds(front), sum(map(cpu_seconds, _tree(front))), time.process_time(), machine)

    def since(self, before: "_Used") -> "_Used":
        return _Used(
            self.front - before.front,
            self.tree - before.tree,
            self.client - before.client,
            self.machine - before.machine,
        )


def _tree(pid: int) -> list[int]:
    children = [
        int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()
    ]
    return [pid, *(below for child in children for below in _tree(child))]


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process and its threads have used, to the microsecond; what its ended threads used is not in it."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text().split()[0])
        except FileNotFoundError:  # it has just ended
            continue
    return total / 1e9


async def _first(send: Send, prompt: list[int]) -> float:
    began = time.perf_counter()
    pieces = send(prompt, PROBE_ANSWER)
    await anext(aiter(pieces))
    seconds = time.perf_counter() - began
    async for _ in pieces:
        pass
    return seconds


def seeds() -> Callable[[], int]:
    """Numbers that no other round has."""
    return itertools.count(random.SystemRandom().randrange(1 << 30)).__next__
