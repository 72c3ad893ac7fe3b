"""Loads the backbone with some tensors in place of its own: what one adapter makes of them, merged.

vLLM fuses and converts tensors by their names in the checkpoint, so they are swapped there, before it sees them. When all is
loaded, what is the same as in the backbone's engine is exchanged for its memory (`shared_weights`).
"""

import dataclasses
from collections.abc import Generator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from serving_service.engine.protocol import MERGED_WEIGHTS
from serving_service.vllm_plugin.shared_weights import Shared, adopt

LOAD_FORMAT = "graft_merged"


class MergedLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM's classes have no types here
    """vLLM's own loader, except for the tensors that `folder` of the extra config holds merged."""

    def __init__(self, load_config: LoadConfig) -> None:
        self._folder = Path(load_config.model_loader_extra_config["folder"])
        self._shared: list[Shared] = load_config.model_loader_extra_config["shared"]
        super().__init__(dataclasses.replace(load_config, load_format="auto", model_loader_extra_config={}))

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """Loads and shares; the whole model is in this process's memory in between."""
        model: nn.Module = super().load_model(vllm_config=vllm_config, model_config=model_config, prefix=prefix)
        rank = vllm_config.parallel_config.rank
        adopt(model, self._shared[rank] if rank < len(self._shared) else {})
        return model

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        """Yields the checkpoint's tensors by name, merged where there is one.

        Raises:
            ValueError: a merged tensor is none of the checkpoint's, or of another shape.
        """
        with safe_open(self._folder / MERGED_WEIGHTS, framework="pt") as merged:
            names = set(merged.keys())
            for name, tensor in super().get_all_weights(model_config, model):
                if name not in names:
                    yield name, tensor
                    continue
                names.remove(name)
                changed = merged.get_tensor(name)
                if changed.shape != tensor.shape:
                    raise ValueError(f"{name} is {tuple(changed.shape)} merged, {tuple(tensor.shape)} in the backbone")
                yield name, changed
        if names:
            raise ValueError(f"the backbone has no {', '.join(sorted(names))[:200]}")
