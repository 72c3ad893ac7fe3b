"""LoRA on a CPU, token groups by adapter: right for the base, and fast.

vLLM 0.32's own CPU path is neither. It indexes the stacked weights with the slot of each token, and -1 (no adapter) picks
the *last* slot: a base request that shares a batch with adapters is answered through another tenant's adapter. And it
copies a whole weight matrix per token. Here tokens of one adapter are multiplied together, tokens of the base not at all,
and only over the rank that the adapter has.

Does not own when adapters enter a slot. Installed by `worker`, which vLLM imports in the worker's process.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Groups = list[tuple[int, torch.Tensor]]
"""Slot, and the rows of the batch that use it; no entry for rows of the base."""


class GroupedPunicaCPU(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not typed
    """vLLM's CPU wrapper with its arithmetic replaced; which row uses which slot is still vLLM's bookkeeping."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: Groups = []
        self._sample_groups: Groups = []
        self._ranks: dict[int, tuple[int, list[int]]] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Runs once per step; the groups serve all layers of it."""
        super().update_metadata(*args, **kwargs)
        self._token_groups = _groups(self.token_lora_indices)
        self._sample_groups = _groups(self.sampler_indices)

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
        """y[rows, slice] += x[rows] @ A[slot].T @ B[slot].T * scale, for each group and slice.

        Shapes: y (tokens, sum of slices), x (tokens, in), A (slots, 1, max rank, in), B (slots, 1, slice, max rank).
        """
        for slot, rows in self._token_groups:
            inputs = x.index_select(0, rows)
            start = 0
            for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                if rank := self._rank(b, slot):
                    delta = (inputs @ a[slot, 0, :rank].T) @ b[slot, 0, :, :rank].T
                    y[:, start : start + size].index_add_(0, rows, delta.to(y.dtype), alpha=scale)
                start += size

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """y[rows] += x[rows] @ B[slot].T; x is the embedding layer's A, already looked up."""
        for slot, rows in self._token_groups:
            delta = x.index_select(0, rows).to(lora_b_stacked.dtype) @ lora_b_stacked[slot, 0].T
            y[:, : delta.shape[1]].index_add_(0, rows, delta.to(y.dtype))

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
        for slot, rows in self._sample_groups:
            delta = (x.index_select(0, rows) @ lora_a_stacked[slot, 0].T) @ lora_b_stacked[slot, 0].T
            y[:, : delta.shape[1]].index_add_(0, rows, delta.to(y.dtype), alpha=scale)

    def _rank(self, b: torch.Tensor, slot: int) -> int:
        """The rank that a slot uses of this module: slots are padded to the fleet's largest, and are all zero where the
        adapter has nothing for the module (k, o and the MLP under a q,v adapter). Recomputed when a slot was written."""
        known = self._ranks.get(b.data_ptr())
        if known is None or known[0] != b._version:
            used = (b != 0).any(dim=-2).flatten(1)  # (slots, max rank)
            ranks = [int(row.nonzero().max()) + 1 if row.any() else 0 for row in used]
            known = self._ranks[b.data_ptr()] = (b._version, ranks)
        return known[1][slot]


def _groups(slots: torch.Tensor) -> Groups:
    return [(slot, (slots == slot).nonzero().flatten()) for slot in sorted(set(slots.tolist())) if slot >= 0]
