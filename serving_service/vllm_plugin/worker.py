"""Calls that we add to vLLM's worker (its `worker_extension_cls`), for what its own interface does not tell.

Runs inside the engine's process. Importing it also installs the LoRA arithmetic for CPUs.
"""

from typing import Any


class GraftWorkerExtension:
    """Mixed into vLLM's worker class. Names start with `graft_` because vLLM refuses a clash with its own."""

    model_runner: Any

    def graft_held_loras(self) -> tuple[list[int], list[int]]:
        """Returns the ids of adapters in host memory, and of those in a device slot."""
        manager = self.model_runner.lora_manager._adapter_manager
        return sorted(manager.list_adapters()), [lora_id for lora_id in manager.lora_index_to_id if lora_id is not None]


def _install_cpu_lora() -> None:
    """Makes vLLM's CPU platform hand out our LoRA arithmetic (see `grouped_punica` for why it must).

    Here rather than in a `vllm.general_plugins` entry point, because importing the extension cannot be forgotten: without
    it the engine does not start.
    """
    from vllm.platforms import current_platform
    from vllm.platforms.cpu import CpuPlatform

    def wrapper(cls: type[CpuPlatform]) -> str:
        return "serving_service.vllm_plugin.grouped_punica.GroupedPunicaCPU"

    if current_platform.is_cpu():
        CpuPlatform.get_punica_wrapper = classmethod(wrapper)


_install_cpu_lora()
