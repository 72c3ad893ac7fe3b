"""Calls that we add to vLLM's worker (its `worker_extension_cls`), for what its own interface does not tell.

Runs inside the engine's process. Does not change how the worker computes.
"""

from typing import Any


class GraftWorkerExtension:
    """Mixed into vLLM's worker class. Names start with `graft_` because vLLM refuses a clash with its own."""

    model_runner: Any

    def graft_held_loras(self) -> tuple[list[int], list[int]]:
        """Returns the ids of adapters in host memory, and of those in a device slot."""
        manager = self.model_runner.lora_manager._adapter_manager
        return sorted(manager.list_adapters()), [lora_id for lora_id in manager.lora_index_to_id if lora_id is not None]
