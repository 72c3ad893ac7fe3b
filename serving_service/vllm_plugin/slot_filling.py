"""Filling an adapter's slot on a GPU in parts, with steps between them.

A slot is hundreds of tensors, one for each side of each module, and starting their copies takes the engine's loop as long as several
steps (8 to 17 ms for 224 modules on an H200): everybody's next token waited for it. Here each call copies for `PART_S`, and the next one
comes behind a step. Until the last one the slot is the adapter's, and the service sends no request for it; a step that has one anyway
gets the rest copied before it begins.

Owns what is left to copy. Which slot an adapter takes, and how a module is copied, is vLLM's. On CPUs slots are filled in one go: that
is a copy in memory, and a part more would be a step later for the one who waits.
"""

import time
from collections.abc import Iterable
from typing import Any

PART_S = 0.001
"""A step of a small model takes 2 to 4 ms on an H200."""


class SlotFilling:
    """Of one worker.

    Args:
        manager: vLLM's manager of the adapters in device memory.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._left: dict[int, tuple[int, list[tuple[str, Any]]]] = {}

    def begin(self, lora_id: int) -> None:
        """Gives a registered adapter the first free slot, of which there must be one, and copies the first part."""
        manager = self._manager
        if any(hasattr(module, "set_module_to_save") for module in manager.modules.values()):
            manager.activate_adapter(lora_id)  # heads of classifiers have a way of their own
            return
        slot = manager.lora_index_to_id.index(None)
        manager._active_adapters[lora_id] = None
        manager._active_adapters.touch(lora_id)
        manager.lora_index_to_id[slot] = lora_id
        self._left[lora_id] = slot, list(manager.modules.items())
        self.go_on(lora_id)

    def go_on(self, lora_id: int, seconds: float | None = None) -> bool:
        """Copies for `PART_S` or so many seconds, a module at least; returns whether something is left."""
        if lora_id not in self._left:
            return False
        slot, modules = self._left[lora_id]
        if self._manager.lora_index_to_id[slot] != lora_id:  # the slot went to another meanwhile
            del self._left[lora_id]
            return False
        lora, until = (
            self._manager._registered_adapters[lora_id],
            time.monotonic() + (PART_S if seconds is None else seconds),
        )
        while modules:
            name, module = modules.pop()
            weights = self._manager._get_lora_layer_weights(lora, name)
            if weights:
                module.set_lora(slot, weights.lora_a, weights.lora_b)
            else:
                module.reset_lora(slot)
            if time.monotonic() >= until:
                break
        if not modules:
            del self._left[lora_id]
        return bool(modules)

    def finish(self, lora_ids: Iterable[int]) -> None:
        """Copies all that is left of those, before a step that uses them."""
        for lora_id in set(lora_ids) & self._left.keys():
            self.go_on(lora_id, float("inf"))

    @property
    def under_way(self) -> list[int]:
        """Adapters whose slots are not full yet."""
        return list(self._left)
