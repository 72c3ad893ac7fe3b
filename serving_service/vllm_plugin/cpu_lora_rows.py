"""LoRA for the rows that a step has few of, as one compiled loop that reads an adapter once for up to four of them.

A step of decoding has a row or two for each adapter. Torch's products then take two to five times as long as reading the
adapter does (docs/decisions/0010-what-a-step-takes-on-cpus.md); the loop below goes at the speed of memory. Compiled by numba,
which vLLM brings along.

Owns the arithmetic. Which rows use which slot, and who has too many rows for this, is `grouped_punica`'s.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numba import from_dtype, njit, types
from numba.extending import intrinsic

FEW_ROWS = 32
"""Of one adapter in one step: with more, torch's products are as fast or faster (rank 16 and 64, 768 and 1,024 wide, 2 cores)."""
DTYPES = (torch.float32, torch.bfloat16)
_EXACT_ENOUGH = {"reassoc", "contract", "nsz"}  # sums in any order; what is infinite or no number stays so

Rows = tuple[np.ndarray[Any, np.dtype[np.int64]], ...]
"""Rows of the step, sorted by slot; where each slot's begin, and the end; the slots."""
Kernel = Callable[..., None]
_F = TypeVar("_F", bound=Callable[..., Any])


def _compiled(function: _F) -> _F:
    made: _F = njit(fastmath=_EXACT_ENOUGH, nogil=True)(function)
    return made


def numbers(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Returns a tensor of one of `DTYPES` as the kernel takes it, the memory being the same."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


@cache
def kernel(dtype: torch.dtype) -> Kernel:
    """Compiles the loop for a type, a second or two; the engine's start does that.

    Returns:
        A function of x (tokens, in), A (slots, 1, max rank, in), B (slots, 1, out, max rank), as `numbers` makes them; the three
        arrays of `Rows`; the slots' ranks (slots); y (tokens, at least `at` + out), at, scale. It adds x A.T B.T scale to the rows'
        columns of y from `at` on. Sums are float32.
    """
    wide = dtype is torch.bfloat16
    stored = from_dtype(np.dtype(np.uint16 if wide else np.float32))
    load, store = (_load_bfloat16, _store_bfloat16) if wide else (_same, _same)
    f = np.float32

    @_compiled
    def four(x: Any, a: Any, b: Any, rank: int, y: Any, at: int, scale: float, h: Any, i: Any) -> None:
        r0, r1, r2, r3 = i[0], i[1], i[2], i[3]
        for j in range(rank):
            c0 = c1 = c2 = c3 = f(0)
            for k in range(x.shape[1]):
                w = load(a[j, k])
                c0 += load(x[r0, k]) * w
                c1 += load(x[r1, k]) * w
                c2 += load(x[r2, k]) * w
                c3 += load(x[r3, k]) * w
            h[0, j], h[1, j], h[2, j], h[3, j] = c0 * scale, c1 * scale, c2 * scale, c3 * scale
        for n in range(b.shape[0]):
            c0 = c1 = c2 = c3 = f(0)
            for j in range(rank):
                w = load(b[n, j])
                c0 += h[0, j] * w
                c1 += h[1, j] * w
                c2 += h[2, j] * w
                c3 += h[3, j] * w
            y[r0, at + n] = store(load(y[r0, at + n]) + c0)
            y[r1, at + n] = store(load(y[r1, at + n]) + c1)
            y[r2, at + n] = store(load(y[r2, at + n]) + c2)
            y[r3, at + n] = store(load(y[r3, at + n]) + c3)

    @_compiled
    def two(x: Any, a: Any, b: Any, rank: int, y: Any, at: int, scale: float, h: Any, i: Any) -> None:
        r0, r1 = i[0], i[1]
        for j in range(rank):
            c0 = c1 = f(0)
            for k in range(x.shape[1]):
                w = load(a[j, k])
                c0 += load(x[r0, k]) * w
                c1 += load(x[r1, k]) * w
            h[0, j], h[1, j] = c0 * scale, c1 * scale
        for n in range(b.shape[0]):
            c0 = c1 = f(0)
            for j in range(rank):
                w = load(b[n, j])
                c0 += h[0, j] * w
                c1 += h[1, j] * w
            y[r0, at + n] = store(load(y[r0, at + n]) + c0)
            y[r1, at + n] = store(load(y[r1, at + n]) + c1)

    @_compiled
    def one(x: Any, a: Any, b: Any, rank: int, y: Any, at: int, scale: float, h: Any, i: Any) -> None:
        r0 = i[0]
        for j in range(rank):
            c0 = f(0)
            for k in range(x.shape[1]):
                c0 += load(x[r0, k]) * load(a[j, k])
            h[0, j] = c0 * scale
        for n in range(b.shape[0]):
            c0 = f(0)
            for j in range(rank):
                c0 += h[0, j] * load(b[n, j])
            y[r0, at + n] = store(load(y[r0, at + n]) + c0)

    whole, plain = types.Array(stored, 2, "C"), types.Array(types.int64, 1, "C")
    slots_of = types.Array(stored, 4, "C")
    signature = types.void(
        whole, slots_of, slots_of, plain, plain, plain, plain, whole, types.int64, types.float32
    )  # fmt: skip

    def add(
        x: Any, a: Any, b: Any, rows: Any, starts: Any, slots: Any, ranks: Any, y: Any, at: int, scale: float
    ) -> None:
        h = np.empty((4, a.shape[2]), dtype=np.float32)
        for group in range(slots.shape[0]):
            slot = slots[group]
            rank = ranks[slot]
            if rank == 0:
                continue
            i, end = starts[group], starts[group + 1]
            while end - i >= 4:
                four(x, a[slot, 0], b[slot, 0], rank, y, at, scale, h, rows[i : i + 4])
                i += 4
            if end - i >= 2:
                two(x, a[slot, 0], b[slot, 0], rank, y, at, scale, h, rows[i : i + 2])
                i += 2
            if end > i:
                one(x, a[slot, 0], b[slot, 0], rank, y, at, scale, h, rows[i : i + 1])

    made: Kernel = njit(signature, fastmath=_EXACT_ENOUGH, nogil=True)(add)
    return made


@intrinsic  # type: ignore[untyped-decorator]
def _as_float(typing: Any, bits: Any) -> Any:
    """The float32 of these bits."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


@intrinsic  # type: ignore[untyped-decorator]
def _as_bits(typing: Any, value: Any) -> Any:
    """The bits of this float32."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), code


@_compiled
def _same(value: Any) -> Any:
    return value


@_compiled
def _load_bfloat16(bits: Any) -> Any:
    return _as_float(np.uint32(np.uint32(bits) << np.uint32(16)))


@_compiled
def _store_bfloat16(value: Any) -> Any:
    """Rounded to the nearest, to the even one of two."""
    bits = _as_bits(np.float32(value))
    if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
        return np.uint16(0x7FC0)  # no number; rounding could make it infinite
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
