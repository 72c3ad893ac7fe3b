"""The worker of an engine of merged weights (its `worker_extension_cls`). Importing it registers how they are loaded."""

from vllm.model_executor.model_loader import register_model_loader

from serving_service.vllm_plugin.merged_loader import LOAD_FORMAT, MergedLoader


class MergedWorkerExtension:
    """Mixed into vLLM's worker class."""


register_model_loader(LOAD_FORMAT)(MergedLoader)
