"""Adapters in one piece, and a slot filled from such in few calls: for a thread beside the steps of a GPU's engine.

What such a thread does in Python, a step that is being prepared waits for: both need Python's lock, and a slot has hundreds of tensors.
So an adapter's tensors are put behind each other when it is staged, go to the device as one, and from there into the slot by one call
whose views are made once for each slot and kind of adapter.

Owns the order in one piece, and its way into a slot. Which modules can be written so, and what clears the rest of a slot, is
`slot_writing`'s; adapters with something for others are written by that and by vLLM.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from serving_service.vllm_plugin.pace import paced
from serving_service.vllm_plugin.slot_writing import SlotWriting, Writes, plain, ranks_of, sides_of

_KINDS = 4  # of adapters, for each slot, whose views are kept


Ranks = tuple[tuple[int, ...], ...]
"""Of each slice of each module that can be written in one piece."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An adapter in one piece.

    Attributes:
        numbers: (numbers), A and B of each slice of each module one after the other.
        ranks: that it has.
    """

    numbers: torch.Tensor
    ranks: Ranks


class SlotPacking:
    """Of one worker.

    Args:
        manager: vLLM's manager of the adapters in device memory.
        bounce: (numbers) of the slots' type, in memory that the device reads by itself, for which an adapter's is too much.
        copied: returns when the device has done what it was given.
    """

    def __init__(self, manager: Any, bounce: torch.Tensor, copied: Callable[[], None]) -> None:
        self._manager, self._bounce, self._copied = manager, bounce, copied
        self._modules = {name: module for name, module in manager.modules.items() if plain(module)}
        self._rest = [module for name, module in manager.modules.items() if name not in self._modules]
        self._others = SlotWriting(manager)
        modules = self._modules.values()
        sides = [tensor for module in modules for tensor in (*module.lora_a_stacked, *module.lora_b_stacked)]
        self._landing = torch.empty(sum(side[0].numel() for side in sides), dtype=bounce.dtype, device=manager.device)
        self._held: dict[int, Ranks] = {}
        self._to: dict[object, list[torch.Tensor]] = {}
        self._of: dict[object, list[torch.Tensor]] = {}
        self._cleared: dict[object, list[torch.Tensor]] = {}
        whole = tuple((module.lora_a_stacked[0].shape[2],) * module.n_slices for module in modules)
        for slot in range(manager.lora_slots):  # before anybody could wait for it
            self._views_of(slot, whole)

    def pack(self, lora: Any) -> Packed | None:
        """Puts an adapter's tensors into one piece, of which they are views then; None: not one that can be written so."""
        if not lora.loras.keys() <= self._modules.keys():
            return None
        found = []
        for name, module in paced(self._modules.items()):
            sides = sides_of(module, self._manager._get_lora_layer_weights(lora, name))
            if sides is None:
                return None
            found.append(sides)
        tensors = [tensor for sides in found for side in sides for tensor in side if tensor is not None]
        if not tensors or {tensor.dtype for tensor in tensors} != {self._bounce.dtype}:
            return None
        numbers: torch.Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
        parts = _unflatten_dense_tensors(numbers, tensors)  # type: ignore[no-untyped-call]
        own = {id(tensor): part for tensor, part in zip(tensors, parts, strict=True)}
        for layer in paced(lora.loras.values()):
            layer.lora_a, layer.lora_b = (_replaced(side, own) for side in (layer.lora_a, layer.lora_b))
        packed = Packed(numbers, tuple(map(ranks_of, found)))
        first = tensors[0].detach()
        del found, tensors, sides
        free(first)
        return packed

    @torch.inference_mode()  # as where this was made: what was made there may not be written elsewhere
    def write(self, slot: int, lora: Any) -> None:
        """Writes an adapter into a slot, on the current stream, which may still be at it when this returns."""
        packed: Packed | None = getattr(lora, "graft_packed", None)
        # Taken out first: a write that fails half-way leaves what nobody knows.
        before = self._held.pop(slot, None)
        if packed is None:
            self._others.write(slot, lora)
            return
        self._others.forget(slot)
        if before is None:
            for module in self._rest:  # what the one before may have had there
                module.reset_lora(slot)
        if cleared := self._cleared_of(slot, before, packed.ranks):
            torch._foreach_zero_(cleared)
        size, step = len(packed.numbers), len(self._bounce)
        for start in range(0, size, step):
            part = packed.numbers[start : start + step]
            self._bounce[: len(part)].copy_(part)
            self._landing[start : start + len(part)].copy_(self._bounce[: len(part)], non_blocking=True)
            if start + step < size:
                self._copied()
        to, of = self._views_of(slot, packed.ranks)
        if to:
            torch._foreach_copy_(to, of)
        self._held[slot] = packed.ranks

    def _views_of(self, slot: int, ranks: Ranks) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Parts of a slot, and of what has landed."""
        if (to := self._to.get((slot, ranks))) is None:
            to = self._writes(slot, None, ranks).to
            _keep(self._to, _KINDS * self._manager.lora_slots, (slot, ranks), to)
        if (of := self._of.get(ranks)) is None:
            sizes = [one.numel() for one in to]
            parts = torch.split(self._landing[: sum(sizes)], sizes) if sizes else ()
            of = [part.view(one.shape) for part, one in zip(parts, to, strict=True)]
            _keep(self._of, _KINDS, ranks, of)
        return to, of

    def _cleared_of(self, slot: int, before: Ranks | None, ranks: Ranks) -> list[torch.Tensor]:
        if before == ranks:
            return []
        if (known := self._cleared.get((slot, before, ranks))) is None:
            known = self._writes(slot, before, ranks).cleared
            _keep(self._cleared, _KINDS * self._manager.lora_slots, (slot, before, ranks), known)
        return known

    def _writes(self, slot: int, before: Ranks | None, ranks: Ranks) -> Writes:
        writes = Writes()
        for number, (module, of) in enumerate(zip(self._modules.values(), ranks, strict=True)):
            writes.add(module, slot, of, None if before is None else before[number])
        return writes


def free(tensor: torch.Tensor) -> None:
    """Gives memory back without Python's lock: 40 MB take 2 ms, and where a name just ends everybody waits for that. Memory that others
    have views of stays."""
    tensor.set_()  # type: ignore[call-overload]  # without a source, it has no memory afterwards


def _replaced(side: Any, own: dict[int, torch.Tensor]) -> Any:
    if isinstance(side, list):
        return [None if one is None else own[id(one)] for one in side]
    return own[id(side)]


def _keep(kept: dict[object, Any], most: int, key: object, value: Any) -> None:
    """The one made first goes first: most fleets have one kind of adapters or two."""
    while len(kept) >= most:
        del kept[next(iter(kept))]
    kept[key] = value
