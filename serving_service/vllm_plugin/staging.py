"""Reading, checking and packing adapters beside the engine's loop.

Stock vLLM does all three inside its busy loop, so that everybody's decoding waits for a cold adapter. Here a thread of the
worker does them, told over a Unix socket, and the loop only takes the finished tensors (`worker.graft_take`). On a GPU it also fills
the slots (`slot_filling`). Owns the thread, the socket's protocol (a line of JSON each way) and the staged adapters. Does not own slots.
"""

import json
import logging
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
from serving_service.vllm_plugin.adapter_checks import check_fit, check_numbers, check_places
from serving_service.vllm_plugin.adapter_kinds import Kinds, Tensors, key_of, tensors_of
from serving_service.vllm_plugin.pace import paced
from serving_service.vllm_plugin.reserve import Reserve, quiet_thread
from serving_service.vllm_plugin.slot_filling import SlotFilling
from serving_service.vllm_plugin.slot_packing import free

log = logging.getLogger(__name__)

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
        self._kinds = Kinds()
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

        # A service that ends with answers unread resets the line, which ends this as its last line does.
        with connection, connection.makefile("rb") as lines, suppress(ConnectionError):
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
                wrote = self._filling is not None and self._filling.fill(question["id"])
                return {"bytes": int(wrote)}
            lora = self._stage(LoRARequest(question["name"], question["id"], question["path"]))
        except Exception as error:  # whatever vLLM finds wrong with it is the caller's to hear
            return {"error": f"{type(error).__name__}: {error}"}
        with self._lock:
            self._staged[lora.id] = lora
        return {"bytes": _bytes(lora)}

    def _stage(self, request: LoRARequest) -> LoRAModel:
        lora = (
            self._staged_apart(request) if self._filling is None else self._staged_in_one_piece(request, self._filling)
        )
        check_numbers(_memory(lora))
        return lora

    def _staged_apart(self, request: LoRARequest) -> LoRAModel:
        """As on a CPU, where a slot's tensors are copied by one pass over memory, in the loop."""
        lora = self._manager._load_adapter(request)
        self._reserve.release(_bytes(lora))
        # Tensors of a file that needed no conversion are maps of it: they would be read from the disk inside the engine's loop, and
        # change when the file does. Copied here, and scaled on the way, which merging does otherwise in a pass of its own.
        layers = list(lora.loras.values())
        sides = torch._foreach_mul([layer.lora_b for layer in layers], [float(layer.scaling) for layer in layers])
        for layer, b in zip(layers, sides, strict=True):
            layer.lora_b, layer.scaling = b, 1
        self._merge_and_check(lora)
        for layer in lora.loras.values():
            a = layer.lora_a
            layer.lora_a = [one if one is None else one.clone() for one in a] if isinstance(a, list) else a.clone()
        return lora

    def _staged_in_one_piece(self, request: LoRARequest, filling: SlotFilling) -> LoRAModel:
        """As on a GPU, where the file is copied when it is read (`whole_file`)."""
        folder = Path(request.lora_path)
        key = key_of(folder)
        if (kind := self._kinds.find(key)) is not None:
            made: LoRAModel = kind.another(folder, request.lora_int_id)
            return made
        lora = self._manager._load_adapter(request)
        before = self._merged_in_place(lora)
        filling.prepare(lora)
        try:
            self._kinds.learn(key, folder, lora, before)
        except Exception:  # the adapter is there, and the next of its kind is only slower
            log.exception("could not learn what adapters like %s have alike", request.lora_name)
        return lora

    def _merged_in_place(self, lora: LoRAModel) -> Tensors:
        """Returns where its tensors lay; a name for them anywhere else would keep the whole file when `prepare` has put them elsewhere."""
        layers = list(lora.loras.values())
        sides, scales = [layer.lora_b for layer in layers], [float(layer.scaling) for layer in layers]
        torch._foreach_mul_(sides, scales)
        for layer in paced(layers):
            layer.scaling = 1
        self._merge_and_check(lora)
        return Tensors(lora, zip(sides, scales, strict=True))

    def _merge_and_check(self, lora: LoRAModel) -> None:
        manager = self._manager._adapter_manager
        manager._validate_moe_lora_format(lora)
        # What `add_adapter` does first; done here, it finds nothing left to do there.
        manager._create_merged_loras_inplace(lora)
        check_places(manager, lora)
        check_fit(manager, lora)


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


def _memory(lora: LoRAModel) -> list[torch.Tensor]:
    """Returns its tensors, or the piece that they are in."""
    packed = getattr(lora, "graft_packed", None)
    return tensors_of(lora) if packed is None else [packed.numbers]


def _bytes(lora: LoRAModel) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _memory(lora))
