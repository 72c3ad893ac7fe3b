"""LoRA of all slots of a module in two matrix products, for GPUs; nothing here knows vLLM.

Owns where a module's slots lie in memory, and the arithmetic. Does not own which row uses which slot (`dense_punica`).

Why: a step of a few hundred tokens is bound by reading weights and by starting kernels. vLLM's grouped kernels start a
program for every adapter, slice and block of rows, small ones that wait for memory one after the other: 64 adapters of
rank 16 on q and v of an 8B llama add 26 ms to a step of 11 ms, where all their bytes are read in 0.2 ms. One product of
the rows with every slot's A computes more than is asked for, 64 times, and clears what is not a row's own; then one product
with every slot's B adds it up. That is 220 GFLOP in such a step, 0.3 ms of an H200, in kernels of the vendor's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MOST_NUMBERS = 1 << 25
"""Of one product with A: a long prompt is taken in pieces of rows, so that scratch memory stays small (64 MiB of bfloat16)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One output slice of a module that adapters may touch.

    Attributes:
        start, size: its columns of the module's output.
        b: (size, slots * rank): all slots' B side by side.
    """

    start: int
    size: int
    b: torch.Tensor


@dataclass(frozen=True, slots=True)
class Slots:
    """A module's slots.

    Attributes:
        a: (parts * slots * rank, in): all slots' A below each other, part by part.
        b: (sum of the parts' sizes, slots * rank): the parts' B below each other.
        parts: the slices that adapters may touch.
        count, rank: of slots, and of each.
    """

    a: torch.Tensor
    b: torch.Tensor
    parts: tuple[Part, ...]
    count: int
    rank: int

    def add(self, y: torch.Tensor, x: torch.Tensor, others: torch.Tensor, used: int) -> None:
        """y[row, slice] += x[row] @ A[slot].T @ B[slot].T of the row's own slot, for each slice.

        Args:
            y: (tokens, out); changed.
            x: (tokens, in).
            others: (tokens, slots): True where the slot is not the row's; a row of the base has no other.
            used: slots from the first one on that hold all of the step's adapters; fewer are less work.
        """
        rows = max(1, _MOST_NUMBERS // (len(self.parts) * used * self.rank))
        for begin in range(0, x.shape[0], rows):
            piece = slice(begin, begin + rows)
            self._add(y[piece], x[piece], others[piece, :used], used)

    def _add(self, y: torch.Tensor, x: torch.Tensor, others: torch.Tensor, used: int) -> None:
        width, wanted = self.count * self.rank, used * self.rank
        if used == self.count:
            inner = list((x @ self.a.T).view(x.shape[0], len(self.parts), width).unbind(1))
        else:
            inner = [x @ self.a[n * width : n * width + wanted].T for n in range(len(self.parts))]
        for part, own in zip(self.parts, inner, strict=True):
            # Filled and not multiplied by 0: what overflows in one tenant's adapter would make others' rows NaN.
            own.view(-1, used, self.rank).masked_fill_(others[:, :, None], 0.0)
            y[:, part.start : part.start + part.size].addmm_(own, part.b[:, :wanted].T)


Stacked = tuple[torch.Tensor, ...]


def rehouse(
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    touched: Sequence[bool],
    before: torch.Tensor | None = None,
) -> tuple[Slots, Stacked, Stacked]:
    """Moves a module's slots to where two products can read them all; returns them, and views shaped as before.

    Args:
        a: (slots, 1, rank, in) of each slice.
        b: (slots, 1, size, rank) of each slice.
        touched: whether adapters may touch the slice; at least one. The others stay as they are and take no part.
        before: (rows, in); is copied to where it ends as the slots' A begins, so that one product makes both.
    """
    count, rank = a[0].shape[0], a[0].shape[2]
    sides = list(zip(a, b, touched, strict=True))
    slots_a = [one.reshape(count * rank, -1) for one, _, used in sides if used]
    held_a = torch.cat(slots_a) if before is None else torch.cat([before, *slots_a])[len(before) :]
    held_b = torch.cat([one[:, 0].permute(1, 0, 2).reshape(-1, count * rank) for _, one, used in sides if used])
    new_a, new_b, parts, start, first = list(a), list(b), list[Part](), 0, 0
    for n, used in enumerate(touched):
        size = b[n].shape[2]
        if used:
            begin = len(parts) * count * rank
            own = held_b[first : first + size]
            new_a[n] = held_a[begin : begin + count * rank].view(count, 1, rank, -1)
            new_b[n] = own.view(size, count, rank).permute(1, 0, 2).unsqueeze(1)
            parts.append(Part(start, size, own))
            first += size
        start += size
    return Slots(held_a, held_b, tuple(parts), count, rank), tuple(new_a), tuple(new_b)
