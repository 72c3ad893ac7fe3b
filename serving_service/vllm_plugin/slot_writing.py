"""Writing an adapter into a slot: only what differs from what the slot held, in few calls.

vLLM clears a whole slot first, every module of it at the fleet's largest rank, and then copies tensor by tensor. An adapter of rank 8
on q and v, in slots for rank 64 on all linear modules, is 1% of that, and slots that adapters take turns on are written often. Here a
slice's rows of A and columns of B up to the adapter's rank are copied, and those behind them cleared as far as the adapter before had
any: what the slot holds then is the same, number for number.

Owns how a slot is written, and what rank each holds. Which slot an adapter gets, and when, is `slot_filling`'s and vLLM's. Modules that
vLLM splits or stacks in ways of its own (experts, embeddings, tensor parallel) it writes.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

_KEPT = 1000  # writes that nobody has asked about yet


@dataclass(slots=True)
class Writes:
    """What makes a slot hold an adapter.

    Attributes:
        to: parts of the slot, A and B of each slice that the adapter has something for.
        of: what is copied there, of the same shapes.
        cleared: what becomes 0.
    """

    to: list[torch.Tensor] = field(default_factory=list)
    of: list[torch.Tensor] = field(default_factory=list)
    cleared: list[torch.Tensor] = field(default_factory=list)

    def add(self, module: Any, slot: int, ranks: Sequence[int], before: Sequence[int] | None) -> None:
        """Adds a module's parts to `to` and `cleared`.

        Args:
            module: vLLM's layer.
            slot: which.
            ranks: of each slice, that the adapter has.
            before: that the slot holds; None: unknown.
        """
        for n, rank in enumerate(ranks):
            slots_a, slots_b = module.lora_a_stacked[n], module.lora_b_stacked[n]
            held = slots_a.shape[2] if before is None else before[n]
            if rank:
                self.to += (slots_a[slot, 0, :rank], slots_b[slot, 0, :, :rank])
            if held > rank:
                self.cleared += (slots_a[slot, 0, rank:held], slots_b[slot, 0, :, rank:held])


Side = tuple[torch.Tensor | None, torch.Tensor | None]


class SlotWriting:
    """Of one worker, where nobody else writes into slots.

    Args:
        manager: vLLM's manager of the adapters in device memory.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._plain = {name: plain(module) for name, module in manager.modules.items()}
        self._ranks: dict[tuple[int, str], tuple[int, ...]] = {}
        """Of each slice of a module in a slot. What is not in it may hold anything."""

    def write(self, slot: int, lora: Any) -> None:
        """Writes an adapter, as vLLM holds it in host memory, into a slot."""
        manager, writes, ranks = self._manager, Writes(), dict[str, tuple[int, ...]]()
        for name, module in manager.modules.items():
            weights = manager._get_lora_layer_weights(lora, name)
            # Taken out first: a write that fails half-way leaves what nobody knows.
            before = self._ranks.pop((slot, name), None)
            if not weights and before is not None and not any(before):
                ranks[name] = before  # nothing is there and nothing comes, as of most modules under adapters of q and v
                continue
            sides = sides_of(module, weights) if self._plain[name] else None
            if sides is not None:
                ranks[name] = ranks_of(sides)
                writes.add(module, slot, ranks[name], before)
                writes.of += (tensor for side in sides for tensor in side if tensor is not None)
            elif weights:
                module.set_lora(slot, weights.lora_a, weights.lora_b)
            else:
                module.reset_lora(slot)
        if writes.cleared:
            torch._foreach_zero_(writes.cleared)
        if writes.to:
            torch._foreach_copy_(writes.to, writes.of)
        self._ranks |= {(slot, name): of for name, of in ranks.items()}

    def forget(self, slot: int) -> None:
        """Somebody else writes into a slot."""
        for name in self._manager.modules:
            self._ranks.pop((slot, name), None)


def sides_of(module: Any, weights: Any) -> Sequence[Side] | None:
    """A and B of each slice of a plain module, both None where the adapter has nothing; None: not to be written here."""
    if not weights:
        return [(None, None)] * module.n_slices
    lists = [one if isinstance(one, list) else [one] for one in (weights.lora_a, weights.lora_b)]
    if len(lists[0]) != module.n_slices or len(lists[1]) != module.n_slices:
        return None  # a packed one that vLLM splits
    sides = list(zip(*lists, strict=True))
    for (a, b), slots_a, slots_b in zip(sides, module.lora_a_stacked, module.lora_b_stacked, strict=True):
        if (a is None) != (b is None):
            return None
        if a is not None and (len(a) != b.shape[1] or a.shape[1] != slots_a.shape[3] or len(b) != slots_b.shape[2]):
            return None
    return sides


def plain(module: Any) -> bool:
    """Whether it is a linear layer whose slots hold an adapter's tensors as they are."""
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.layers.column_parallel_linear import MergedColumnParallelLinearWithLoRA

    ways = (BaseLinearLayerWithLoRA.set_lora, MergedColumnParallelLinearWithLoRA.set_lora)
    return (
        isinstance(module, BaseLinearLayerWithLoRA)
        and module.tp_size == 1
        and type(module).set_lora in ways
        and type(module).reset_lora is BaseLinearLayerWithLoRA.reset_lora
    )


def ranks_of(sides: Sequence[Side]) -> tuple[int, ...]:
    """Of each slice; 0: nothing."""
    return tuple(0 if a is None else len(a) for a, _ in sides)


def take_slot(manager: Any, slot: int, lora_id: int) -> None:
    """Gives a registered adapter a slot that is free."""
    manager._active_adapters[lora_id] = None
    manager.lora_index_to_id[slot] = lora_id


def has_heads(manager: Any) -> bool:
    """Whether a model has heads of classifiers, which have a way of their own into slots: vLLM writes all of such a model's."""
    return any(hasattr(module, "set_module_to_save") for module in manager.modules.values())


def writing_of(manager: Any) -> SlotWriting:
    """What writes the slots of vLLM's manager of adapters in device memory."""
    if "graft_writing" not in vars(manager):
        manager.graft_writing = SlotWriting(manager)
    writing: SlotWriting = manager.graft_writing
    return writing


def _written(manager: Any) -> deque[tuple[int, float]]:
    if "graft_written" not in vars(manager):
        manager.graft_written = deque(maxlen=_KEPT)
    written: deque[tuple[int, float]] = manager.graft_written
    return written


def written(manager: Any) -> list[tuple[int, float]]:
    """Returns which adapters the loop has written into slots since this was last asked, and the milliseconds that each took."""
    found = list(_written(manager))
    _written(manager).clear()
    return found


def install(write: Callable[[Any, int, Any], None]) -> None:
    """Makes vLLM write slots with `write` (manager, slot, adapter) whenever it brings an adapter into one."""
    from vllm.lora.model_manager import LoRAModelManager

    stock = LoRAModelManager.activate_adapter

    def activate(self: Any, lora_id: int) -> bool:
        if lora_id in self._active_adapters or None not in self.lora_index_to_id:
            return bool(stock(self, lora_id))
        began = time.perf_counter()
        if has_heads(self):
            stock(self, lora_id)
        else:
            slot = self.lora_index_to_id.index(None)
            take_slot(self, slot, lora_id)
            write(self, slot, self._registered_adapters[lora_id])
        _written(self).append((lora_id, (time.perf_counter() - began) * 1e3))
        return True

    LoRAModelManager.activate_adapter = activate
