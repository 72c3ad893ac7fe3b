"""Loads the backbone with some tensors in place of its own: what one adapter makes of them, merged.

vLLM fuses and converts tensors by their names in the checkpoint, so they are swapped there, before it sees them. When all is
loaded, what is the same as in the backbone's engine is exchanged for its memory (`shared_weights`). On a GPU, where there is
no room for the whole model in between, what is the same is not loaded at all (`device_loading`).
"""

import dataclasses
import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from serving_service.engine.merged_protocol import MERGED_WEIGHTS
from serving_service.vllm_plugin.device_weights import Unshareable
from serving_service.vllm_plugin.shared_weights import Shared, adopt

LOAD_FORMAT = "graft_merged"

log = logging.getLogger(__name__)


class MergedLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM's classes have no types here
    """vLLM's own loader, except for the tensors that `folder` of the extra config holds merged."""

    def __init__(self, load_config: LoadConfig) -> None:
        self._folder = Path(load_config.model_loader_extra_config["folder"])
        self._shared: list[Shared] = load_config.model_loader_extra_config["shared"]
        super().__init__(dataclasses.replace(load_config, load_format="auto", model_loader_extra_config={}))

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """Loads and shares; on a CPU the whole model is in this process's memory in between."""
        rank = vllm_config.parallel_config.rank
        shared = self._shared[rank] if rank < len(self._shared) else {}
        if "tensors" in shared:
            try:
                return self._load_beside(vllm_config, model_config, prefix, shared)
            except Unshareable as reason:
                log.warning("an engine of merged weights has all of the weights for itself: %s", reason)
            shared = {}
        model: nn.Module = super().load_model(vllm_config=vllm_config, model_config=model_config, prefix=prefix)
        return _with_bytes(model, adopt(model, shared))

    def _load_beside(
        self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str, shared: Shared
    ) -> nn.Module:
        from serving_service.vllm_plugin.device_loading import load_beside

        def read(wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
            return self._merged_over(self._checkpoint(model_config, wanted))

        with safe_open(self._folder / MERGED_WEIGHTS, framework="pt") as merged:
            names = set(merged.keys())
        return _with_bytes(*load_beside(vllm_config, model_config, prefix, shared, names, read))

    def _checkpoint(
        self, model_config: ModelConfig, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Reads some of the checkpoint's tensors; the others are not even read from the disk."""
        _, files, safe, *_ = self._prepare_weights(model_config.model, None, model_config.revision, False, None)
        if not safe:
            raise Unshareable("the checkpoint is not in safetensors files")
        for path in sorted(files):
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # not a dict
                    if wanted(name):
                        yield name, tensors.get_tensor(name)

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        """Yields the checkpoint's tensors by name, merged where there is one. Raises ValueError; see `_merged_over`."""
        yield from self._merged_over(super().get_all_weights(model_config, model))

    def _merged_over(self, checkpoint: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Exchanges what is merged.

        Raises:
            ValueError: a merged tensor is none of the checkpoint's, or of another shape.
        """
        with safe_open(self._folder / MERGED_WEIGHTS, framework="pt") as merged:
            names = set(merged.keys())
            for name, tensor in checkpoint:
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


def _with_bytes(model: nn.Module, shared: int) -> nn.Module:
    """Notes on the model how many of its bytes are the backbone's, for whoever asks the worker."""
    model.graft_shared_bytes = shared  # type: ignore[assignment]
    return model
