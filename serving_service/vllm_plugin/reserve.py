"""Memory for the next adapters, touched before they come.

In a virtual machine the first touch of a page can cost more than all that is done with it later: 80 MB of fresh memory took 0.1 to
0.25 s where filling them again took 6 ms (docs/benchmarks.md). So an adapter on its way in finds memory that has been touched: some
is kept, and what was used is made up for in the background, piece by piece, so that nobody's step waits long for the core that it
takes. Not while adapters come one after the other, as long as there is enough for one more: steps and the next load would share
cores and memory with it. The first of it is touched at once: while an engine starts, it holds up nobody.

Owns how much is kept and when it is touched. That what is freed here is what the next allocation gets is `cpu_memory`'s.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

import torch

from graftwork.quiet_threads import Lull, step_back

BLOCK_BYTES = 16 << 20
"""Small enough to be taken from the heap (`cpu_memory.OWN_BYTES`) and not from the kernel."""
PIECE_BYTES = 1 << 20
REST_S = 0.016
"""Between pieces, one of which takes up to 3 ms where touching is dear: 50 MB a second, a sixth of a core."""
QUIET_S = 2.0
"""Without an adapter, after which what was used is made up for."""


class Reserve:
    """Keeps touched memory free for others.

    Args:
        size: bytes to keep; rounded up to whole blocks, 0 keeps nothing.
        quiet_s: as `QUIET_S`.
    """

    def __init__(self, size: int, quiet_s: float = QUIET_S) -> None:
        self._most, self._last = -(-size // BLOCK_BYTES), 0
        self._blocks = list[torch.Tensor]()
        self._lull = Lull(REST_S, quiet_s)
        self._lacks = threading.Event()
        self.full = threading.Event()
        """Set while all of it is there."""
        if self._most:
            threading.Thread(target=self._fill, name="reserve", daemon=True).start()

    def release(self, size: int) -> None:
        """Frees so much of it, for allocations that follow at once."""
        self._last = min(-(-size // BLOCK_BYTES), self._most)
        for _ in range(self._last):
            with suppress(IndexError):  # that is all there was
                self._blocks.pop()
        self.full.clear()
        self._lull.used()
        self._lacks.set()

    @property
    def bytes(self) -> int:
        """That are there."""
        return len(self._blocks) * BLOCK_BYTES

    def _fill(self) -> None:
        quiet_thread(0)
        self._add(lambda: True)
        quiet_thread(10)
        while True:
            self._lacks.wait()
            self._lacks.clear()
            self._add(lambda: self._lull.wait(lambda: len(self._blocks) < self._last))

    def _add(self, rest: Callable[[], bool]) -> None:
        """Touches what lacks, resting before each piece."""
        while len(self._blocks) < self._most:
            block = torch.empty(BLOCK_BYTES, dtype=torch.uint8)
            for at in range(0, BLOCK_BYTES, PIECE_BYTES):
                rest()
                block[at : at + PIECE_BYTES].zero_()
            self._blocks.append(block)
        self.full.set()


def quiet_thread(nice: int) -> None:
    """Gives this thread one compute thread (a second team of OpenMP threads would fight the engine's for the cores), and a lower
    priority."""
    torch._C.set_num_threads(1)  # vLLM's CPU worker has replaced `torch.set_num_threads` by a warning
    step_back(nice)
