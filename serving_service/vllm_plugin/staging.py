"""Reading, checking and packing adapters beside the engine's loop.

Stock vLLM does all three inside its busy loop, so that everybody's decoding waits for a cold adapter. Here a thread of the
worker does them, told over a Unix socket, and the loop only takes the finished tensors (`worker.graft_take`). On a GPU it also fills
the slots (`slot_filling`). Owns the thread, the socket's protocol (a line of JSON each way) and the staged adapters. Does not own slots.
"""

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import WorkerLoRAManager

from serving_service.vllm_plugin import pace
from serving_service.vllm_plugin.pace import paced
from serving_service.vllm_plugin.reserve import Reserve, quiet_thread
from serving_service.vllm_plugin.slot_filling import SlotFilling
from serving_service.vllm_plugin.slot_packing import free

_THREADS = 2  # adapters staged at once: one reads while the other packs
_NICE = 5


class Stager:
    """Stages adapters for one worker.

    Args:
        manager: the worker's; used for what it knows of the model.
        path: where to listen.
        reserve: memory for what is staged.
        leave_cores: told how many cores the service wants for itself; returns when it has them.
        filling: of slots that the loop has given to adapters, where it does not fill them itself.
    """

    def __init__(
        self,
        manager: WorkerLoRAManager,
        path: Path,
        reserve: Reserve,
        leave_cores: Callable[[int], None],
        filling: SlotFilling | None = None,
    ) -> None:
        self._manager, self._reserve, self._leave_cores = manager, reserve, leave_cores
        self._filling = filling
        self._lock = threading.Lock()
        self._staged: dict[int, LoRAModel] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="stage", initializer=self._begin)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        # Of its own: who has an adapter in memory already would wait behind cold loads otherwise.
        self._fills = ThreadPoolExecutor(1, thread_name_prefix="fill", initializer=quiet_thread, initargs=(_NICE,))
        threading.Thread(target=self._accept, name="stage-accept", daemon=True).start()

    def _begin(self) -> None:
        quiet_thread(_NICE)
        if self._filling is not None:
            pace.begin()

    def take(self, lora_id: int) -> LoRAModel:
        """Hands over a staged adapter; KeyError when it is not there."""
        with self._lock:
            return self._staged.pop(lora_id)

    def discard(self, lora: LoRAModel) -> None:
        """Lets go of an adapter that has left, in a thread."""
        self._fills.submit(_free, lora)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), name="stage-talk", daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        """Answers each line as it is done, in any order; the id tells which."""
        lock = threading.Lock()

        def answer(question: dict[str, Any]) -> None:
            reply = {"id": question["id"], **self._answer(question)}
            # Who asked may be gone; the next one opens a connection of its own.
            with lock, suppress(OSError):
                connection.sendall(json.dumps(reply).encode() + b"\n")

        with connection, connection.makefile("rb") as lines:
            for line in lines:
                question = json.loads(line)
                if (cores := question.get("leave_cores")) is not None:
                    self._leave_cores(cores)
                    with lock, suppress(OSError):
                        connection.sendall(json.dumps({"left": cores}).encode() + b"\n")
                else:
                    (self._fills if question.get("fill") else self._pool).submit(answer, question)

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if question.get("drop"):
            with self._lock:
                self._staged.pop(question["id"], None)
            return {}
        try:
            if question.get("fill"):
                if self._filling is not None:
                    self._filling.fill(question["id"])
                return {"bytes": 0}
            lora = self._stage(LoRARequest(question["name"], question["id"], question["path"]))
        except Exception as error:  # whatever vLLM finds wrong with it is the caller's to hear
            return {"error": f"{type(error).__name__}: {error}"}
        with self._lock:
            self._staged[lora.id] = lora
        return {"bytes": _bytes(lora)}

    def _stage(self, request: LoRARequest) -> LoRAModel:
        lora = self._manager._load_adapter(request)
        manager = self._manager._adapter_manager
        manager._validate_moe_lora_format(lora)
        self._reserve.release(_bytes(lora))
        # Tensors of a file that needed no conversion are maps of it: they would be read from the disk inside the engine's loop, and
        # change when the file does. Copied here, and scaled on the way, which merging does otherwise in a pass of its own. On a GPU
        # the file was copied when it was read (`whole_file`).
        layers = list(lora.loras.values())
        sides, scales = [layer.lora_b for layer in layers], [float(layer.scaling) for layer in layers]
        if self._filling is None:
            sides = list(torch._foreach_mul(sides, scales))
        else:
            torch._foreach_mul_(sides, scales)
        for layer, b in paced(zip(layers, sides, strict=True)):
            layer.lora_b, layer.scaling = b, 1
        # What `add_adapter` does first; done here, it finds nothing left to do there.
        manager._create_merged_loras_inplace(lora)
        _check_places(manager, lora)
        _check_fit(manager, lora)
        _check_numbers(lora, manager.lora_config.lora_dtype)
        if self._filling is not None:
            self._filling.prepare(lora)
        else:
            for layer in lora.loras.values():
                a = layer.lora_a
                layer.lora_a = [one if one is None else one.clone() for one in a] if isinstance(a, list) else a.clone()
        return lora


def _free(lora: Any) -> None:
    packed = getattr(lora, "graft_packed", None)
    lora.loras.clear()
    if packed is not None:
        free(packed.numbers)


def slot_bytes(manager: WorkerLoRAManager) -> int:
    """What an adapter takes at most: one slot of every module."""
    held = 0
    for module in manager._adapter_manager.modules.values():
        for side in ("lora_a_stacked", "lora_b_stacked"):
            stacked = getattr(module, side, ())
            for slots in (stacked,) if isinstance(stacked, torch.Tensor) else stacked:
                held += slots[0].numel() * slots.element_size()
    return held


def _check_places(manager: Any, lora: LoRAModel) -> None:
    """Raises ValueError for tensors of layers that this service has no slots for: vLLM would leave them out unsaid."""
    wanted = manager.lora_config.target_modules
    if wanted is None:
        return
    changed = set(lora.loras)
    for packed, children in manager.packed_modules.items():
        weights = lora.loras.get(packed)
        if weights is not None and isinstance(weights.lora_a, list):
            changed.discard(packed)
            changed |= {child for child, a in zip(children, weights.lora_a, strict=True) if a is not None}
    if foreign := sorted({name.rpartition(".")[2] for name in changed} - set(wanted)):
        raise ValueError(
            f"it changes {', '.join(foreign)}; this service has slots for {', '.join(sorted(wanted))} only"
        )


def _check_numbers(lora: LoRAModel, dtype: torch.dtype) -> None:
    """Raises ValueError for numbers that became infinite on the way to the service's type. The store lets only finite ones in,
    and only float16 is narrower than what it takes. A step multiplies all slots at once: infinity times 0 is NaN, for all."""
    if dtype is torch.float16 and not all(bool(tensor.isfinite().all()) for tensor in _tensors(lora)):
        raise ValueError("it holds numbers that are too large for float16: serve with dtype bfloat16 or float32")


def _check_fit(manager: Any, lora: LoRAModel) -> None:
    """Raises ValueError for tensors that a slot cannot hold: the copy in the engine's loop would fail half-way, and the step
    of the request behind it with it. Layers that are split over workers, and experts, have shapes of their own."""
    for name, module in paced(manager.modules.items()):
        weights = lora.get_lora(name)
        if weights is None or getattr(module, "tp_size", 1) > 1 or "MoE" in type(module).__name__:
            continue
        for side in ("lora_a", "lora_b"):
            slots, found = getattr(module, f"{side}_stacked", ()), getattr(weights, side)
            tensors = found if isinstance(found, list) else [found]
            if len(slots) != len(tensors):
                continue  # vLLM splits it
            for slot, tensor in zip(slots, tensors, strict=True):
                rank, width = (2, 3) if side == "lora_a" else (3, 2)  # of a slot's dimensions
                if tensor is not None and not (
                    tensor.shape[rank - 2] <= slot.shape[rank] and tensor.shape[width - 2] == slot.shape[width]
                ):
                    raise ValueError(
                        f"{name}: {side} has the shape {tuple(tensor.shape)}, a slot {tuple(slot.shape[2:])}"
                    )


def _tensors(lora: LoRAModel) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for layer in lora.loras.values():
        for side in (layer.lora_a, layer.lora_b):
            found += [tensor for tensor in (side if isinstance(side, list) else [side]) if tensor is not None]
    return found


def _bytes(lora: LoRAModel) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(lora))
