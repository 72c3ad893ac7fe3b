"""Filling an adapter's slot on a GPU in parts, with steps between them.

A slot is hundreds of tensors, one for each side of each module, and starting their copies takes the engine's loop as long as several
steps (gaps of 12 to 21 ms among such of 4 on an H200): everybody's next token waited for it. Here each call copies for a part of a step's time, and
the next one comes behind a step. Until the last one the slot is the adapter's, and the service sends no request for it; a step that has
one anyway gets the rest copied before it begins.

Owns which slot a loaded adapter gets, and what is left to copy. How a module is copied, and which slot a step takes for an adapter that
has none, is vLLM's. On CPUs slots are filled in one go: that
is a copy in memory, and a part more would be a step later for the one who waits.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

PART_S = 0.001
"""At least: a step of a small model takes 2 to 4 ms on an H200."""
PART = 0.3
"""Of the time since the last part: where steps are long, few of them may go by until the adapter's first token."""


class SlotFilling:
    """Of one worker.

    Args:
        manager: vLLM's manager of the adapters in device memory.
        part_s: as `PART_S`.
        clock: seconds, monotonic.
    """

    def __init__(self, manager: Any, part_s: float = PART_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._manager, self._part_s, self._clock = manager, part_s, clock
        self._left: dict[int, tuple[int, list[tuple[str, Any]]]] = {}
        self._ended = clock()  # the last part

    def begin(self, lora_id: int) -> None:
        """Gives a registered adapter the first free slot, of which there must be one, and copies the first part."""
        manager = self._manager
        if any(hasattr(module, "set_module_to_save") for module in manager.modules.values()):
            manager.activate_adapter(lora_id)  # heads of classifiers have a way of their own
            return
        slot = manager.lora_index_to_id.index(None)
        manager._active_adapters[lora_id] = None
        manager.lora_index_to_id[slot] = lora_id
        self._left[lora_id] = slot, list(manager.modules.items())
        self._copy(lora_id, self._part_s)

    def go_on(self, lora_id: int) -> bool:
        """Copies the next part, a module at least; returns whether something is left."""
        return self._copy(lora_id, max(self._part_s, PART * (self._clock() - self._ended)))

    def finish(self, lora_ids: Iterable[int]) -> None:
        """Copies all that is left of those, before a step that uses them."""
        for lora_id in set(lora_ids) & self._left.keys():
            self._copy(lora_id, float("inf"))

    def forget(self, lora_id: int) -> None:
        """Copies nothing more of an adapter that leaves."""
        self._left.pop(lora_id, None)

    @property
    def under_way(self) -> list[int]:
        """Adapters whose slots are not full yet."""
        return list(self._left)

    def _copy(self, lora_id: int, seconds: float) -> bool:
        if lora_id not in self._left:
            return False
        manager, (slot, modules) = self._manager, self._left[lora_id]
        if manager.lora_index_to_id[slot] != lora_id:  # the slot went to another meanwhile
            self.forget(lora_id)
            return False
        # Steps touch what they use, which this is not yet: the next adapter without a slot would take this one.
        manager._active_adapters.touch(lora_id)
        lora, until = manager._registered_adapters[lora_id], self._clock() + seconds
        while modules:
            name, module = modules.pop()
            weights = manager._get_lora_layer_weights(lora, name)
            if weights:
                module.set_lora(slot, weights.lora_a, weights.lora_b)
            else:
                module.reset_lora(slot)
            if self._clock() >= until:
                break
        self._ended = self._clock()
        if not modules:
            self.forget(lora_id)
        return bool(modules)


def filling_of(manager: Any) -> SlotFilling | None:
    """What fills the slots of vLLM's worker manager in parts; None where they are filled in one go."""
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    if "graft_filling" not in vars(manager):
        manager.graft_filling = SlotFilling(manager._adapter_manager)
    filling: SlotFilling = manager.graft_filling
    return filling


def give_slot(manager: Any, lora_id: int, busy: Iterable[int], filling: SlotFilling | None) -> None:
    """Has a registered adapter copied into a slot, or begins with it, if one is free or holds none of `busy`.

    Args:
        manager: vLLM's manager of the adapters in device memory.
        lora_id: the adapter's.
        busy: adapters that requests use.
        filling: None copies it whole.
    """
    if None not in manager.lora_index_to_id:
        kept = {*busy, *(filling.under_way if filling else ())}
        idle = next((held for held in manager._active_adapters.order if held not in kept), None)
        if idle is not None:
            manager._active_adapters.pop(idle)
    if None in manager.lora_index_to_id:
        if filling is None:
            manager.activate_adapter(lora_id)
        else:
            filling.begin(lora_id)
