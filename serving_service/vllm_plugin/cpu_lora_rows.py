"""LoRA for the rows that a step has few of: an adapter is read once for all its rows, at memory's speed, by all threads of the step.

A step of decoding has a row or two for each adapter. Torch's products then take two to five times as long as reading the adapter does
(docs/decisions/0010-what-a-step-takes-on-cpus.md). Here all slices of a module are one call of compiled loops. In which order a row's numbers
are summed depends on how many rows its adapter has in the step, as it does with torch's products: in float32 the last digits may differ.

Owns the call and what it is given. The loops are `cpu_lora_code`'s; which rows use which slot, and who has too many rows for this, is
`grouped_punica`'s.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from serving_service.vllm_plugin.cpu_code import LANES
from serving_service.vllm_plugin.cpu_lora_code import FOUR, GIVEN, kernel

FEW_ROWS = 64
"""Of one adapter in one step: with more, torch's products are as fast or faster (rank 16 and 64, 768 and 1,024 wide, 2 cores)."""
DTYPES = (torch.float32, torch.bfloat16)
SHARED_BYTES = 1 << 18
"""Of adapters that a call reads: with less, handing work to other threads takes as long as they save."""
_K, _ROWS, _TABLE, _H = (GIVEN.index(name) for name in ("k", "rows", "slices", "h"))


class StepRows:
    """Rows of a step that this is for.

    Args:
        rows: their numbers, int64, sorted by slot.
        starts: where each slot's begin, and the end.
        slots: which slots.
    """

    def __init__(self, rows: Sequence[int], starts: Sequence[int], slots: Sequence[int]) -> None:
        self.slots, self.count = tuple(slots), len(rows)
        self._held = torch.tensor([*rows, *starts, *slots], dtype=torch.int64)
        at, size = self._held.data_ptr(), self._held.itemsize
        self.lies: list[ctypes.c_int64 | int] = [
            at,
            at + size * len(rows),
            at + size * (len(rows) + len(starts)),
            len(slots),
            len(rows),
        ]
        """As `GIVEN` has it, from rows to count."""
        self._between = torch.empty(0, dtype=torch.float32)

    def between(self, numbers: int) -> int:
        """Address of so much memory for x A.T, the same for all modules of the step."""
        if self._between.numel() < numbers:
            self._between = torch.empty(numbers, dtype=torch.float32)  # torch's default may be another type
        return self._between.data_ptr()


@dataclass(frozen=True, slots=True)
class Slice:
    """What the slots hold of one output slice of a module.

    Attributes:
        a: (slots, 1, max rank, in).
        b: (slots, 1, out, max rank).
        at: the column of y where it begins.
    """

    a: torch.Tensor
    b: torch.Tensor
    at: int


class Module:
    """What the slots hold of one module, in the form that the loops take it; their memory is the slots' own.

    Args:
        slices: of which `takes` is true.
        ranks: that each slot uses, of each slice; 0: nothing.
    """

    def __init__(self, slices: Sequence[Slice], ranks: Sequence[Sequence[int]]) -> None:
        self.dtype, (slots, _, self._rank, self._k) = slices[0].a.dtype, slices[0].a.shape
        self._kernel, self._slices = kernel(self.dtype), tuple(slices)  # kept, for the table holds their addresses
        self._ranks = np.zeros((len(slices), slots), np.int64)
        self._sizes = np.array([(self._k + one.b.shape[2]) * self.dtype.itemsize for one in slices])
        table = [
            (one.a.data_ptr(), one.b.data_ptr(), of.ctypes.data, one.b.shape[2], one.at)
            for one, of in zip(slices, self._ranks, strict=True)
        ]
        self._table = torch.tensor(table, dtype=torch.int64)
        self._given = given = (ctypes.c_int64 * len(GIVEN))()
        self._at = ctypes.addressof(given)
        given[_K:_ROWS] = [self._k, self._rank]
        given[_TABLE:_H] = [self._table.data_ptr(), len(slices)]
        self._row = len(slices) * self._rank
        self._ranks[:] = ranks
        self._bytes: list[int] = (self._sizes @ self._ranks).tolist()

    def hold(self, slot: int, ranks: Sequence[int]) -> None:
        """Takes what rank a slot uses, of each slice, after it was written."""
        self._ranks[:, slot] = ranks
        self._bytes[slot] = int(self._sizes @ self._ranks[:, slot])

    def fits(self, x: torch.Tensor, y: torch.Tensor) -> bool:
        """Whether `add` takes them."""
        return x.dtype is self.dtype and y.dtype is self.dtype and x.is_contiguous() and y.is_contiguous()

    def add(self, x: torch.Tensor, y: torch.Tensor, step: StepRows, scale: float) -> None:
        """Adds x A.T B.T scale to y's rows, slice by slice; on one thread at a time.

        Args:
            x: (tokens, in), of which `fits` is true, as for y.
            y: (tokens, at least the last slice's end).
        """
        given = self._given
        given[:_K] = [x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1]]
        given[_ROWS:_TABLE] = step.lies
        given[_H:] = [step.between(self._row * step.count), _bits(scale)]
        read = sum([self._bytes[slot] for slot in step.slots])
        self._kernel(self._at, 1 if read < SHARED_BYTES else 0)


@cache
def _bits(number: float) -> int:
    return int(np.float32(number).view(np.int32))


def takes(slices: Sequence[Slice]) -> bool:
    """Whether the loops are for slots like these."""
    return len({one.a.shape[2:] for one in slices}) == 1 and all(
        one.a.dtype in DTYPES and one.a.dtype is one.b.dtype and one.a.is_contiguous() and one.b.is_contiguous()
        and one.a.shape[2] == one.b.shape[3] and not one.a.shape[2] % LANES and not one.a.shape[3] % (2 * LANES)
        and not one.b.shape[2] % FOUR
        for one in slices
    )  # fmt: skip
