"""The worker of an engine of merged weights (its `worker_extension_cls`). Importing it registers how they are loaded."""

from typing import Any

from vllm.model_executor.model_loader import register_model_loader
from vllm.platforms import current_platform

from serving_service.vllm_plugin.cpu_memory import give_back
from serving_service.vllm_plugin.cpu_steps import keep_kernels, prepare
from serving_service.vllm_plugin.merged_loader import LOAD_FORMAT, MergedLoader


class MergedWorkerExtension:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def graft_prepare_steps(self, few_threads: bool) -> int:
        """As the backbone's worker does; then what that took goes back: there may be many of these engines, most of them idle."""
        rows = prepare(self.model_runner, few_threads=few_threads)[0]
        give_back()
        return rows

    def graft_shared_bytes(self) -> int:
        """Tells how many bytes of this worker's weights are the backbone's."""
        return int(self.model_runner.get_model().graft_shared_bytes)


register_model_loader(LOAD_FORMAT)(MergedLoader)
if current_platform.is_cpu():
    keep_kernels()
