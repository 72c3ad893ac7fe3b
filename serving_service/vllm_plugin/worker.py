"""Calls that we add to vLLM's worker (its `worker_extension_cls`), for what its own interface does not offer.

Runs inside the engine's process, on its loop: nothing here may take long. Importing it also installs the LoRA arithmetic.
"""

import sys
from pathlib import Path
from typing import Any

from vllm.platforms import current_platform

from serving_service.vllm_plugin import slot_writing
from serving_service.vllm_plugin.cpu_steps import Threads, keep_kernels, prepare
from serving_service.vllm_plugin.loads import loads
from serving_service.vllm_plugin.session_priority import SessionPriority
from serving_service.vllm_plugin.shared_weights import Shared, publish
from serving_service.vllm_plugin.slot_filling import filling_of, give_slot, write_slot

Held = tuple[list[int], list[int | None], list[tuple[int, float]]]
"""Ids of adapters in host memory; of what is in each device slot, None where one is free; and what the loop has written into slots since
this was last told, with milliseconds."""
STEP_S = 0.3
"""That an adapter's load waits at most for the step under way; the two would slow each other by more."""
SWITCH_S = 0.0002
"""On a GPU, that a step waits at most for Python's lock where staging computes."""
AHEAD = 10
"""Adapters of a slot's size that memory is kept for."""


class GraftWorkerExtension:
    """Mixed into vLLM's worker class. Names start with `graft_` because vLLM refuses a clash with its own."""

    model_runner: Any
    vllm_config: Any
    rank: int
    _graft_stager: Any
    _graft_threads: Threads | None = None
    _graft_priority = SessionPriority()

    def graft_open_staging(self, folder: str, reserve_bytes: int) -> str:
        """Starts this worker's staging thread; returns the path of its socket in `folder`. See `Reserve` for the most that it keeps
        for the next adapters."""
        from serving_service.vllm_plugin.reserve import Reserve
        from serving_service.vllm_plugin.staging import Stager, slot_bytes

        path = Path(folder) / f"{self.rank}.sock"
        manager = self.model_runner.lora_manager
        size = min(reserve_bytes, AHEAD * slot_bytes(manager)) if current_platform.is_cpu() else 0
        filling = filling_of(manager._adapter_manager)
        if filling is not None:
            # Staging is Python, as a step on a GPU is: one that wants its turn would wait for 5 ms, two steps' time.
            sys.setswitchinterval(SWITCH_S)
            from serving_service.vllm_plugin import whole_file

            whole_file.install(manager.lora_config.lora_dtype)
        self._graft_stager = Stager(manager, path, Reserve(size), self._leave_cores, filling)
        return str(path)

    def graft_prepare_steps(self, few_threads: bool) -> int:
        """Makes a CPU's steps fast (see `cpu_steps`); before the first request."""
        if current_platform.is_cpu():
            from serving_service.vllm_plugin.cpu_lora_code import kernel
            from serving_service.vllm_plugin.cpu_lora_rows import DTYPES

            if (dtype := self.vllm_config.lora_config.lora_dtype) in DTYPES:
                kernel(dtype)  # else the first step of an adapter would wait for the compiler
        rows, self._graft_threads = prepare(self.model_runner, few_threads=few_threads)
        return rows

    def _leave_cores(self, cores: int) -> None:
        """Returns when steps keep to it, which the one under way does not."""
        loads.tell(bool(cores))
        if self._graft_threads is not None:
            self._graft_priority.raised(bool(cores))
            self._graft_threads.leave = cores
            if cores:
                self._graft_threads.until_next(STEP_S)

    def graft_share_weights(self) -> Shared:
        """Makes this worker's weights something that engines of merged weights can map or open; before the first request."""
        model = self.model_runner.get_model()
        if next(model.parameters()).device.type == "cpu":
            return publish(model)
        from serving_service.vllm_plugin.device_loading import publish_on_device

        return publish_on_device(model, self.vllm_config)

    def graft_take(self, lora_id: int, busy: list[int]) -> Held:
        """Registers a staged adapter, and does as `graft_give`. Never evicts from host memory: that is the service's to decide, for
        it knows who is about to use what."""
        self.model_runner.lora_manager._adapter_manager.add_adapter(self._graft_stager.take(lora_id))
        return self.graft_give(lora_id, busy)

    def graft_give(self, lora_id: int, busy: list[int]) -> Held:
        """Copies an adapter into a slot if one is free or holds none of `busy`; on a GPU only gives it that slot, which the staging
        thread fills when asked to. Without such a slot vLLM does that when a step wants it."""
        manager = self.model_runner.lora_manager._adapter_manager
        give_slot(manager, lora_id, busy, filling_of(manager))
        return self.graft_held_loras()

    def graft_drop(self, lora_id: int) -> Held:
        """Frees an adapter's slot and its host memory."""
        manager = self.model_runner.lora_manager._adapter_manager
        lora = manager._registered_adapters.cache.get(lora_id)
        if (filling := filling_of(manager)) is not None:
            filling.forget(lora_id)
        self.model_runner.lora_manager.remove_adapter(lora_id)
        if filling is not None and lora is not None:
            self._graft_stager.discard(lora)
        return self.graft_held_loras()

    def graft_held_loras(self) -> Held:
        """Tells what is where."""
        manager = self.model_runner.lora_manager._adapter_manager
        return sorted(manager.list_adapters()), list(manager.lora_index_to_id), slot_writing.written(manager)


def _install_cpu_lora() -> None:
    """Makes vLLM's CPU platform hand out our LoRA arithmetic (see `grouped_punica` for why it must).

    Here rather than in a `vllm.general_plugins` entry point, because importing the extension cannot be forgotten: without
    it the engine does not start.
    """
    if not current_platform.is_cpu():
        return
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.platforms.cpu import CpuPlatform

    from serving_service.vllm_plugin.grouped_punica import ranks_of

    def wrapper(cls: type[CpuPlatform]) -> str:
        return "serving_service.vllm_plugin.grouped_punica.GroupedPunicaCPU"

    activate = LoRAModelManager.activate_adapter

    def activate_and_tell(self: Any, lora_id: int) -> bool:
        if lora_id not in self._active_adapters and None in self.lora_index_to_id:
            ranks = ranks_of(self, lora_id)
            for punica in self.punica_wrapper_mapping.values():
                punica.slot_written(self.lora_index_to_id.index(None), ranks)
        return bool(activate(self, lora_id))

    keep_kernels()
    CpuPlatform.get_punica_wrapper = classmethod(wrapper)
    LoRAModelManager.activate_adapter = activate_and_tell


def _install_gpu_lora() -> None:
    """Makes vLLM's CUDA platform hand out our LoRA arithmetic, and lays slots out as that wants them (see `dense_lora`); steps
    that bring a prompt are replayed as a whole (see `step_graphs`)."""
    from vllm.lora import lora_model, model_manager

    def wrapper(cls: type[Any]) -> str:
        return "serving_service.vllm_plugin.dense_punica.DensePunicaGPU"

    create = model_manager.LoRAModelManager._create_lora_modules

    def create_and_house(self: Any) -> None:
        from serving_service.vllm_plugin.dense_punica import house

        create(self)
        house(self)

    if current_platform.is_cuda():
        # Hundreds of allocations of memory that the device may read, for each adapter, made steps wait for the driver's lock, and those
        # of `add_adapter` are in the loop. Slots are filled through memory of one such allocation (`slot_packing`).
        lora_model.PIN_MEMORY = model_manager.PIN_MEMORY = False
        from serving_service.vllm_plugin import dense_joined, step_graphs

        dense_joined.install()
        step_graphs.install()
        type(current_platform).get_punica_wrapper = classmethod(wrapper)
        model_manager.LoRAModelManager._create_lora_modules = create_and_house


def _install_slot_order() -> None:
    """Makes a step that brings an adapter into a slot leave those alone that it needs itself.

    vLLM takes the slot used longest ago, and touches a step's adapters in any order: one that has a slot could lose it to
    another of the same step, and be copied once more.
    """
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

    apply = LRUCacheWorkerLoRAManager._apply_adapters

    def resident_first(self: Any, lora_requests: set[Any]) -> None:
        active = self._adapter_manager._active_adapters
        for request in lora_requests:
            if request.lora_int_id in active:
                active.touch(request.lora_int_id)
        if (filling := filling_of(self._adapter_manager)) is not None:
            filling.finish(request.lora_int_id for request in lora_requests)
        apply(self, lora_requests)

    LRUCacheWorkerLoRAManager._apply_adapters = resident_first


slot_writing.install(write_slot)
_install_cpu_lora()
_install_gpu_lora()
_install_slot_order()
