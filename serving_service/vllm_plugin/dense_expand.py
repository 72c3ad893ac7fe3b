"""The second product of `dense_lora` as a kernel of ours, for steps of up to a few thousand rows: clears, multiplies and adds in one go.

Owns the Triton kernel and its tiles. Needs a GPU; imported by `dense_punica` only.

Why not the vendor's product: clearing what is not a row's own is a kernel of its own before it, and each output slice is
one more; of 27 us a layer (64 slots of rank 16, 256 rows, H200) these starts are a third. And rows are taken in the order
of their slots, so that a tile reads only the slots that its rows have, in a CUDA graph too, which is the same for any mix.
"""

from dataclasses import dataclass

import torch
from vllm.triton_utils import tl, triton

from serving_service.vllm_plugin.dense_lora import Slots

MOST_ROWS = 4096
"""With more, the scratch memory of all rows and slots at once would be large, and starting kernels is nothing.

Steps of more than 512 rows are in no CUDA graph by vLLM's default, so that each start costs Python's time, and the vendor's
product needs a dozen: a step of 700 rows of an 8B llama took 56 ms instead of 31 on an H200.
"""
_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a module's output is cut, on the device.

    Attributes:
        b: (sum of the parts' sizes, slots * rank): all parts' B below each other.
        table: (tiles, 4) int32: first row of `b`, part, columns, first column of the output.
    """

    b: torch.Tensor
    table: torch.Tensor


def cut(slots: Slots) -> Tiles:
    """Cuts a module; its parts' B must lie below each other in memory, as `dense_lora.rehouse` lays them."""
    rows, first = list[tuple[int, int, int, int]](), 0
    for number, part in enumerate(slots.parts):
        rows += [
            (first + begin, number, min(_COLUMNS, part.size - begin), part.start + begin)
            for begin in range(0, part.size, _COLUMNS)
        ]
        first += part.size
    table = torch.tensor(rows, dtype=torch.int32, device=slots.b.device)
    return Tiles(slots.b, table)


@triton.jit  # type: ignore[untyped-decorator]
def _expand_kernel(  # type: ignore[no-untyped-def]
    inner_ptr, b_ptr, y_ptr, order_ptr, slot_ptr, table_ptr,
    tokens, width, inner_stride, y_stride,
    RANK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    first_b = tl.load(table_ptr + tl.program_id(0) * 4)
    part = tl.load(table_ptr + tl.program_id(0) * 4 + 1)
    columns = tl.load(table_ptr + tl.program_id(0) * 4 + 2)
    first_y = tl.load(table_ptr + tl.program_id(0) * 4 + 3)
    places = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    slots = tl.load(slot_ptr + places, mask=places < tokens, other=-1)
    last = tl.max(slots, axis=0)
    if last < 0:
        return  # rows of the base only
    first = tl.min(tl.where(slots < 0, last, slots), axis=0)
    column, step = tl.arange(0, COLUMNS), tl.arange(0, INNER)
    has_row, has_column = (slots >= 0)[:, None], (column < columns)[:, None]
    rows = tl.load(order_ptr + places, mask=slots >= 0, other=0)
    inner = inner_ptr + rows[:, None].to(tl.int64) * inner_stride + part * width
    b = b_ptr + (first_b + column)[:, None].to(tl.int64) * width
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for begin in range(first * RANK // INNER * INNER, (last + 1) * RANK, INNER):
        at = begin + step
        own = (at // RANK)[None, :] == slots[:, None]
        h = tl.load(inner + at[None, :], mask=own & has_row, other=0.0)
        w = tl.load(b + at[None, :], mask=has_column & (at < width)[None, :], other=0.0)
        total = tl.dot(h, tl.trans(w), total)
    out = y_ptr + rows[:, None].to(tl.int64) * y_stride + (first_y + column)[None, :]
    there = has_row & (column < columns)[None, :]
    before = tl.load(out, mask=there, other=0.0)
    tl.store(out, (before + total).to(before.dtype), mask=there)


def expand(
    y: torch.Tensor, inner: torch.Tensor, order: torch.Tensor, slot_of: torch.Tensor, slots: Slots, tiles: Tiles
) -> None:
    """y[row, slice] += inner[row, slice, slot] @ B[slot].T of the row's own slot.

    Args:
        y: (tokens, out); changed.
        inner: (tokens, parts * slots * rank): the rows' products with every slot's A.
        order: int32 (tokens or more): the rows by slot, those without one anywhere.
        slot_of: int32 (tokens or more): the slot of the row at that place of `order`, -1 for none.
        slots, tiles: of the module.
    """
    tokens = y.shape[0]
    rows, step = (16, 128) if tokens <= 16 else (32, 64) if tokens <= 32 else (64, 64)
    grid = (len(tiles.table), triton.cdiv(tokens, rows))
    _expand_kernel[grid](
        inner, tiles.b, y, order, slot_of, tiles.table,
        tokens, slots.count * slots.rank, inner.stride(0), y.stride(0),
        RANK=slots.rank, ROWS=rows, COLUMNS=_COLUMNS, INNER=step, num_warps=4, num_stages=3,
    )  # fmt: skip
