"""LoRA on a CPU, token groups by adapter: right for the base, and fast.

vLLM 0.32's own CPU path is neither. It indexes the stacked weights with the slot of each token, and -1 (no adapter) picks
the *last* slot: a base request that shares a batch with adapters is answered through another tenant's adapter. And it
copies a whole weight matrix per token. Here tokens of one adapter are multiplied together, tokens of the base not at all,
and only over the rank that the adapter has.

A step of few tokens is another matter: there the arithmetic is nothing and the number of calls is all, 2.4 ms of a layer
with eight adapters on q and v. So all adapters of a module are multiplied at once, and what is not a row's own is masked.

Does not own when adapters enter a slot. Installed by `worker`, which vLLM imports in the worker's process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of the batch that use one slot; there is none for rows of the base.

    Attributes:
        slot: which.
        rows: their numbers, ascending.
        at: they as a slice where they lie side by side, as a prompt's do: nothing is copied to get at them.
    """

    slot: int
    rows: torch.Tensor
    at: slice | None


Groups = list[_Group]

FEW_TOKENS = 64
"""Up to so many rows a step's adapters are multiplied at once: a row then costs as many of them as there are."""
PACKED_FLOATS = 1 << 18
"""Most numbers of a module's packed adapters: they are copies, made anew inside a step when a slot was written."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """What the slots hold of one output slice of a module, as of one writing of it.

    Attributes:
        written: the versions of the slots' A and B.
        told: how many writings of slots the wrapper had been told of.
        ranks: that each slot uses. Slots are padded to the fleet's largest rank, and are all zero where the adapter has
            nothing for the module (k, o and the MLP under a q,v adapter).
        packed: all slots' A below each other (sum of ranks, in), and their B (sum of ranks, out); None: too large, or not finite,
            which zero times them would not be either.
    """

    written: tuple[int, int]
    told: int
    ranks: tuple[int, ...]
    packed: tuple[torch.Tensor, torch.Tensor] | None

    @classmethod
    def of(cls, a: torch.Tensor, b: torch.Tensor, told: int, ranks: tuple[int, ...]) -> "_Slice":
        """Reads the slots: A (slots, 1, max rank, in), B (slots, 1, out, max rank)."""
        packed = None
        if 0 < sum(ranks) * (a.shape[-1] + b.shape[-2]) <= PACKED_FLOATS:
            held = [(slot, rank) for slot, rank in enumerate(ranks) if rank]
            parts = (
                torch.cat([a[slot, 0, :rank] for slot, rank in held]),
                torch.cat([b[slot, 0, :, :rank].T for slot, rank in held]),
            )
            packed = parts if all(bool(part.isfinite().all()) for part in parts) else None
        return cls((a._version, b._version), told, ranks, packed)


class GroupedPunicaCPU(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not typed
    """vLLM's CPU wrapper with its arithmetic replaced; which row uses which slot is still vLLM's bookkeeping."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: Groups = []
        self._sample_groups: Groups = []
        self._tokens = 0
        self._slices: dict[int, _Slice] = {}
        self._told = 0
        self._written: dict[int, int] = {}
        """Slots, and how many writings there had been with their last one."""
        self._ranks: dict[int, Mapping[int, int]] = {}
        """Of slots, as told with their last writing."""
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}

    def slot_written(self, slot: int, ranks: Mapping[int, int]) -> None:
        """To be told before an adapter enters a slot; else every slot would have to be looked at to find the one.

        Args:
            slot: which.
            ranks: that the adapter has, by the address of a slice's B; one that is not in it is looked for in the slot, number by
                number.
        """
        self._told += 1
        self._ranks[slot] = ranks
        self._written[slot] = self._told

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Runs once per step; the groups and masks serve all layers of it."""
        super().update_metadata(*args, **kwargs)
        self._tokens = len(self.token_lora_indices)
        self._token_groups = _groups(self.token_lora_indices)
        self._sample_groups = _groups(self.sampler_indices)
        self._masks.clear()

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """y[row, slice] += x[row] @ A[slot].T @ B[slot].T * scale, for each row with a slot and each slice.

        Shapes: y (tokens, sum of slices), x (tokens, in), A (slots, 1, max rank, in), B (slots, 1, slice, max rank).
        """
        if not self._token_groups:
            return
        start = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            held = self._slice(a, b)
            out = y[:, start : start + size]
            start += size
            if held.packed is not None and self._tokens <= FEW_TOKENS:
                part_a, part_b = held.packed
                # Filled and not multiplied by 0: what overflows in one tenant's adapter would make others' rows NaN.
                own = (x @ part_a.T).masked_fill_(self._others(held.ranks), 0.0)
                out.addmm_(own, part_b, alpha=scale)
                continue
            for group in self._token_groups:
                if rank := held.ranks[group.slot]:
                    part_a, part_b = a[group.slot, 0, :rank], b[group.slot, 0, :, :rank]
                    if group.at is None:
                        delta = (x.index_select(0, group.rows) @ part_a.T) @ part_b.T
                        out.index_add_(0, group.rows, delta.to(y.dtype), alpha=scale)
                    elif (
                        len(group.rows) == 1
                    ):  # a product with a vector reads the matrix once, and once is all there is to do
                        row = group.at.start
                        out[row].addmv_(part_b, part_a.mv(x[row]), alpha=scale)
                    else:
                        out[group.at].addmm_(x[group.at] @ part_a.T, part_b.T, alpha=scale)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """y[rows] += x[rows] @ B[slot].T; x is the embedding layer's A, already looked up."""
        for group in self._token_groups:
            if self._has_nothing(group.slot, lora_b_stacked):
                continue
            delta = x.index_select(0, group.rows).to(lora_b_stacked.dtype) @ lora_b_stacked[group.slot, 0].T
            y[:, : delta.shape[1]].index_add_(0, group.rows, delta.to(y.dtype))

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """As `add_lora_linear`, for the rows that are sampled."""
        for group in self._sample_groups:
            if self._has_nothing(group.slot, lora_b_stacked):
                continue
            delta = (x.index_select(0, group.rows) @ lora_a_stacked[group.slot, 0].T) @ lora_b_stacked[group.slot, 0].T
            y[:, : delta.shape[1]].index_add_(0, group.rows, delta.to(y.dtype), alpha=scale)

    def _slice(self, a: torch.Tensor, b: torch.Tensor) -> _Slice:
        """What is known of a slice's slots; of those that were written, read again."""
        known = self._slices.get(b.data_ptr())
        if known is not None and known.written == (a._version, b._version):
            return known
        anew = {slot for slot, when in self._written.items() if known and when > known.told}
        if known is None or not anew:  # written by somebody who told nobody
            ranks = _ranks(b)
        else:
            ranks = tuple(self._rank(b, slot) if slot in anew else rank for slot, rank in enumerate(known.ranks))
        made = self._slices[b.data_ptr()] = _Slice.of(a, b, self._told, ranks)
        return made

    def _has_nothing(self, slot: int, b: torch.Tensor) -> bool:
        """Whether the adapter in a slot was told to have nothing for a module: most have nothing for embeddings and output."""
        return self._ranks.get(slot, {}).get(b.data_ptr()) == 0

    def _rank(self, b: torch.Tensor, slot: int) -> int:
        told = self._ranks[slot].get(b.data_ptr())
        return _ranks(b[slot : slot + 1])[0] if told is None else told

    def _others(self, ranks: tuple[int, ...]) -> torch.Tensor:
        """(tokens, sum of ranks): whether a column belongs to another slot than the row's own."""
        mask = self._masks.get(ranks)
        if mask is None:
            slots = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
            mask = self._masks[ranks] = self.token_lora_indices[:, None] != slots
        return mask


def ranks_of(manager: Any, lora_id: int) -> dict[int, int]:
    """The rank that an adapter has in each slice of each module, by the address of the slice's B; those of experts are left out."""
    ranks: dict[int, int] = {}
    lora = manager._registered_adapters[lora_id]
    for name, module in manager.modules.items():
        slices = getattr(module, "lora_b_stacked", ())
        if isinstance(slices, torch.Tensor):
            slices = (slices,)  # embeddings and the output layer
        if not isinstance(slices, tuple):
            continue
        weights = lora.get_lora(name)
        if weights is None:
            ranks |= {b.data_ptr(): 0 for b in slices}
            continue
        parts = weights.lora_b if isinstance(weights.lora_b, list) else [weights.lora_b]
        if len(parts) == len(slices):
            ranks |= {b.data_ptr(): 0 if part is None else part.shape[1] for b, part in zip(slices, parts, strict=True)}
    return ranks


def _ranks(b: torch.Tensor) -> tuple[int, ...]:
    """The rank that each slot uses of B (slots, 1, out, max rank)."""
    used = (b != 0).any(dim=-2).flatten(1)
    return tuple(int(row.nonzero().max()) + 1 if row.any() else 0 for row in used)


def _groups(slots: torch.Tensor) -> Groups:
    made: Groups = []
    for slot in sorted(set(slots.tolist())):
        if slot >= 0:
            rows = (slots == slot).nonzero().flatten()
            first, last = int(rows[0]), int(rows[-1])
            made.append(_Group(slot, rows, slice(first, last + 1) if last - first + 1 == len(rows) else None))
    return made
