"""LoRA on a CPU, token groups by adapter: right for the base, and fast.

vLLM 0.32's own CPU path is neither. It indexes the stacked weights with the slot of each token, and -1 (no adapter) picks
the *last* slot: a base request that shares a batch with adapters is answered through another tenant's adapter. And it
copies a whole weight matrix per token. Here tokens of one adapter are multiplied together, tokens of the base not at all,
and only over the rank that the adapter has.

A step of decoding has a row or two for each adapter: there a compiled loop reads each adapter once (`cpu_lora_rows`). With more
rows, which is prompts, torch's products are as fast.

Does not own when adapters enter a slot. Installed by `worker`, which vLLM imports in the worker's process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from serving_service.vllm_plugin import cpu_lora_rows
from serving_service.vllm_plugin.cpu_lora_rows import FEW_ROWS, Slice, StepRows


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


Versions = list[tuple[int, int]]


@dataclass(slots=True)
class _Held:
    """What the slots hold of one module, as of the last writing of it that was seen.

    Attributes:
        tensors: the slices' A and B.
        written: their versions.
        told: how many writings of slots the wrapper had been told of.
        ranks: of each slice, that each slot uses. Slots are padded to the fleet's largest rank, and are all zero where the adapter
            has nothing for the module (k, o and the MLP under a q,v adapter).
        used: slots of which that is more than 0 for some slice.
        few: for `cpu_lora_rows`; None: not of its shapes or types.
    """

    tensors: tuple[torch.Tensor, ...]
    written: Versions
    told: int
    ranks: list[list[int]]
    used: set[int]
    few: cpu_lora_rows.Module | None


class GroupedPunicaCPU(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not typed
    """vLLM's CPU wrapper with its arithmetic replaced; which row uses which slot is still vLLM's bookkeeping."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: Groups = []
        self._sample_groups: Groups = []
        self._slots = frozenset[int]()
        self._few: StepRows | None = None
        self._many: Groups = []
        self._held: dict[int, _Held] = {}
        self._told = 0
        self._written: dict[int, int] = {}
        """Slots, and how many writings there had been with their last one; the one written last comes last."""
        self._ranks: dict[int, Mapping[int, int]] = {}
        """Of slots, as told with their last writing."""

    def slot_written(self, slot: int, ranks: Mapping[int, int]) -> None:
        """To be told before an adapter enters a slot; else every slot would have to be looked at to find the one.

        Args:
            slot: which.
            ranks: that the adapter has, by the address of a slice's B; one that is not in it is looked for in the slot, number by
                number.
        """
        self._told += 1
        self._ranks[slot] = ranks
        self._written.pop(slot, None)
        self._written[slot] = self._told

    @property
    def adapters(self) -> bool:
        """Whether the step has any."""
        return bool(self._slots)

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Runs once per step; the groups serve all layers of it."""
        super().update_metadata(*args, **kwargs)
        self._token_groups = _groups(self.token_lora_indices)
        self._sample_groups = _groups(self.sampler_indices)
        self._slots = frozenset(group.slot for group in self._token_groups)
        self._few = _rows([group for group in self._token_groups if len(group.rows) <= FEW_ROWS])
        self._many = [group for group in self._token_groups if len(group.rows) > FEW_ROWS]

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
        if not self._slots:
            return
        held = self._of(lora_a_stacked, lora_b_stacked, output_slices)
        if held.used.isdisjoint(self._slots):
            return  # as k, o and the MLP are under adapters of q and v
        groups = self._token_groups
        if self._few and held.few and held.few.fits(x, y):
            held.few.add(x, y, self._few, scale)
            groups = self._many
        end = 0
        for a, b, size, ranks in zip(lora_a_stacked, lora_b_stacked, output_slices, held.ranks, strict=True):
            start, end = end, end + size
            out = y[:, start:end] if groups else y
            for group in groups:
                if rank := ranks[group.slot]:
                    part_a, part_b = a[group.slot, 0, :rank], b[group.slot, 0, :, :rank]
                    if group.at is None:
                        delta = (x.index_select(0, group.rows) @ part_a.T) @ part_b.T
                        out.index_add_(0, group.rows, delta.to(y.dtype), alpha=scale)
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

    def _of(self, a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...], sizes: tuple[int, ...]) -> _Held:
        """What is known of a module's slots; of those that were written, read again."""
        known = self._held.get(b[0].data_ptr())
        written = [(one._version, two._version) for one, two in zip(a, b, strict=True)]
        tensors = (*a, *b)
        if known is not None and not all(one is two for one, two in zip(known.tensors, tensors, strict=True)):
            known = None
        if known is not None and known.written == written:
            return known
        if known is None:
            ranks = [_ranks(one) for one in b]
            starts = [sum(sizes[:number]) for number in range(len(sizes))]
            slices = [Slice(*of) for of in zip(a, b, starts, strict=True)]
            few = cpu_lora_rows.Module(slices, ranks) if cpu_lora_rows.takes(slices) else None
            used = {slot for of in ranks for slot, rank in enumerate(of) if rank}
            known = self._held[b[0].data_ptr()] = _Held(tensors, written, self._told, ranks, used, few)
            return known
        anew = self._written_since(known.told)
        for slot in anew or range(len(known.ranks[0])):  # written by somebody who told nobody: any of them
            now = [self._rank(one, slot) if anew else _ranks(one[slot : slot + 1])[0] for one in b]
            for of, rank in zip(known.ranks, now, strict=True):
                of[slot] = rank
            (known.used.add if any(now) else known.used.discard)(slot)
            if known.few is not None:
                known.few.hold(slot, now)
        known.written, known.told = written, self._told
        return known

    def _written_since(self, told: int) -> list[int]:
        """Slots that were written after so many writings; few of many, so that this looks at the last ones only."""
        return list(takewhile(lambda slot: self._written[slot] > told, reversed(self._written)))

    def _has_nothing(self, slot: int, b: torch.Tensor) -> bool:
        """Whether the adapter in a slot was told to have nothing for a module: most have nothing for embeddings and output."""
        return self._ranks.get(slot, {}).get(b.data_ptr()) == 0

    def _rank(self, b: torch.Tensor, slot: int) -> int:
        told = self._ranks[slot].get(b.data_ptr())
        return _ranks(b[slot : slot + 1])[0] if told is None else told


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


def _ranks(b: torch.Tensor) -> list[int]:
    """The rank that each slot uses of B (slots, 1, out, max rank)."""
    used = (b != 0).any(dim=-2).flatten(1)
    return [int(row.nonzero().max()) + 1 if row.any() else 0 for row in used]


def _groups(slots: torch.Tensor) -> Groups:
    made: Groups = []
    of_rows = slots.numpy()
    for slot in sorted(set(of_rows.tolist())):
        if slot >= 0:
            rows = np.flatnonzero(of_rows == slot)
            first, last = int(rows[0]), int(rows[-1])
            at = slice(first, last + 1) if last - first + 1 == len(rows) else None
            made.append(_Group(slot, torch.from_numpy(rows), at))
    return made


def _rows(groups: Groups) -> StepRows | None:
    """As `cpu_lora_rows` takes them; None for none."""
    if not groups:
        return None
    counts = [0, *(len(group.rows) for group in groups)]
    rows = torch.cat([group.rows for group in groups]).tolist()
    return StepRows(rows, np.cumsum(counts).tolist(), [group.slot for group in groups])
