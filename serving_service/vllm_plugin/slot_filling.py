"""Filling an adapter's slot on a GPU beside the steps: by a staging thread, on a stream of its own.

A slot is hundreds of tensors, one for each side of each module, and starting their copies took the engine's loop longer than several
steps: everybody's next token waited for it. Here the loop only gives the slot away; the thread copies, and the service sends no request
for the adapter before that is done. A step that has one anyway waits for it, or copies the whole itself.

Owns which slot a loaded adapter gets, and that nobody writes into a slot that has gone to another. What is written is `slot_packing`'s,
which slot a step takes for an adapter that has none, vLLM's. On CPUs the loop copies: that is one pass over memory.
"""

import threading
from collections.abc import Iterable
from typing import Any, Protocol

import torch

from serving_service.vllm_plugin.slot_packing import Packed, SlotPacking
from serving_service.vllm_plugin.slot_writing import has_heads, take_slot, writing_of

BOUNCE_BYTES = 4 << 20
"""Of memory that the device reads by itself. Adapters are in such that it does not, as there may be thousands."""


class Writer(Protocol):
    """What writes adapters into slots."""

    def pack(self, lora: Any) -> Packed | None:
        """As `SlotPacking.pack`."""

    def mark(self) -> Any:
        """Returns what tells the work that the device has been given so far."""

    def write(self, slot: int, lora: Any, behind: Any) -> None:
        """Writes an adapter once the device has done the work up to a mark; returns when it is there."""


class SlotFilling:
    """Of one worker.

    Args:
        manager: vLLM's manager of the adapters in device memory.
        writer: of its slots.
    """

    def __init__(self, manager: Any, writer: Writer) -> None:
        self._manager, self._writer = manager, writer
        self._lock = threading.Lock()  # held while a slot is written
        self._left: dict[int, tuple[int, Any, Any]] = {}

    def prepare(self, lora: Any) -> None:
        """Makes an adapter that is not registered yet quick to write, if it can be."""
        lora.graft_packed = self._writer.pack(lora)

    def begin(self, lora_id: int) -> None:
        """Gives a registered adapter the first free slot, of which there must be one; the loop's to call."""
        if has_heads(self._manager):
            self._manager.activate_adapter(lora_id)
            return
        slot = self._manager.lora_index_to_id.index(None)
        # What the device has been given by now may still read the slot, for an adapter that has left it. And the adapter is looked up
        # here, for looking one up changes the order of vLLM's cache, which the loop walks.
        self._left[lora_id] = slot, self._manager._registered_adapters[lora_id], self._writer.mark()
        take_slot(self._manager, slot, lora_id)

    def fill(self, lora_id: int) -> bool:
        """Does what `begin` has left to do, in any thread; when it returns the slot is full, or went to another adapter.

        Returns:
            Whether it wrote.
        """
        with self._lock:
            if (left := self._left.get(lora_id)) is None:
                return False
            slot, lora, behind = left
            its: bool = self._manager.lora_index_to_id[slot] == lora_id
            if its:
                self._writer.write(slot, lora, behind)
            del self._left[lora_id]  # not of one that failed half-way: no step may use it as it is
            return its

    def finish(self, lora_ids: Iterable[int]) -> None:
        """Returns when none of a step's adapters is left to do."""
        for lora_id in self._left.keys() & set(lora_ids):
            self.fill(lora_id)

    def forget(self, lora_id: int) -> None:
        """Writes nothing more of an adapter that leaves."""
        if lora_id in self._left:  # else the loop would wait for whatever else is being written
            with self._lock:
                self._left.pop(lora_id, None)

    def write(self, slot: int, lora: Any) -> None:
        """Writes a whole adapter, in a step that takes a slot for it: behind whoever is writing, perhaps into that one."""
        with self._lock:
            self._writer.write(slot, lora, self._writer.mark())

    @property
    def under_way(self) -> list[int]:
        """Adapters whose slots are not full yet."""
        return list(self._left)


class _Device:
    """Writes through a stream beside that of the steps."""

    def __init__(self, manager: Any) -> None:
        self._stream, dtype = torch.cuda.Stream(), manager.lora_config.lora_dtype  # type: ignore[no-untyped-call]
        bounce = torch.empty(BOUNCE_BYTES // dtype.itemsize, dtype=dtype, pin_memory=True)
        self._packing = SlotPacking(manager, bounce, self._stream.synchronize)

    def pack(self, lora: Any) -> Packed | None:
        return self._packing.pack(lora)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def write(self, slot: int, lora: Any, behind: torch.cuda.Event) -> None:
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(behind)
            self._packing.write(slot, lora)
            self._stream.synchronize()


def filling_of(manager: Any) -> SlotFilling | None:
    """What fills the slots of vLLM's manager of adapters in device memory beside the steps; None where the loop fills them."""
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    if "graft_filling" not in vars(manager):
        manager.graft_filling = SlotFilling(manager, _Device(manager))
    filling: SlotFilling = manager.graft_filling
    return filling


def write_slot(manager: Any, slot: int, lora: Any) -> None:
    """Writes an adapter into a slot that vLLM has taken for it, inside a step."""
    if (filling := filling_of(manager)) is not None:
        filling.write(slot, lora)
    else:
        writing_of(manager).write(slot, lora)


def give_slot(manager: Any, lora_id: int, busy: Iterable[int], filling: SlotFilling | None) -> None:
    """Has a registered adapter copied into a slot, or gives it one, if one is free or holds none of `busy`.

    Args:
        manager: vLLM's manager of the adapters in device memory.
        lora_id: the adapter's.
        busy: adapters that requests use.
        filling: None copies it at once.
    """
    if lora_id in manager._active_adapters or lora_id not in manager._registered_adapters:
        return
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
