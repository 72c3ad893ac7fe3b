"""Loading merged weights on a GPU beside the backbone's engine: what the adapter does not touch is that engine's memory.

The model is built without its large weights, the touched ones are read, the others opened (`device_weights`), all before
vLLM measures memory and captures graphs. Owns which weights are read and in what order things happen; knows vLLM's loaders,
0.26 and 0.32. A matrix that vLLM fuses out of several (q, k, v) is touched as a whole.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
from vllm.utils.torch_utils import set_default_torch_dtype

from serving_service.vllm_plugin.device_weights import (
    LEAST_BYTES,
    Opened,
    Shared,
    Unshareable,
    checkpoint_digest,
    cuda_handle,
    cuda_storage,
    describe,
    open_weights,
)
from serving_service.vllm_plugin.stand_ins import StandIns, give_memory, holes

log = logging.getLogger(__name__)

_PLAIN = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod", "BaseKVCacheMethod"}
"""vLLM's ways to compute that keep a weight on a GPU as it is in the checkpoint (their names)."""

Read = Callable[[Callable[[str], bool]], Iterator[tuple[str, torch.Tensor]]]
"""Reads those of the checkpoint's tensors, merged where they are, that a function wants by name."""


def about_engine(vllm_config: VllmConfig) -> dict[str, Any]:
    """Returns what two engines must have in common to compute with the same weights."""
    import vllm

    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    return {
        "checkpoint": checkpoint_digest(Path(model.model)),
        "dtype": str(model.dtype),
        "quantization": str(model.quantization),
        "rank": [parallel.rank, parallel.tensor_parallel_size, parallel.pipeline_parallel_size],
        "version": [str(vllm.__version__), str(torch.__version__)],
        "device": str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        if torch.cuda.is_available()
        else "cpu",
    }


def publish_on_device(model: nn.Module, vllm_config: VllmConfig) -> Shared:
    """Describes the backbone's weights on this GPU for engines of merged weights; empty, and a warning, where that is not possible."""
    if not torch.cuda.is_available():
        return {}
    torch.cuda.synchronize()  # so that whoever opens them need not wait for anything of ours
    try:
        return describe(model, about_engine(vllm_config), cuda_handle)
    except Unshareable as reason:
        log.warning("engines of merged weights cannot share the backbone's weights: %s", reason)
        return {}


def load_beside(
    vllm_config: VllmConfig,
    model_config: ModelConfig,
    prefix: str,
    shared: Shared,
    merged: set[str],
    read: Read,
    open_: Callable[[Any], torch.UntypedStorage] = cuda_storage,
) -> tuple[nn.Module, int]:
    """Builds and loads the model.

    Args:
        vllm_config: of this engine.
        model_config: likewise.
        prefix: of the model's modules, as vLLM gives it to a loader.
        shared: what the backbone's engine has described.
        merged: names of the merged tensors, as the checkpoint has them.
        read: see there.
        open_: see `device_weights.Opened`.

    Returns:
        The model, and how many bytes of it are the backbone's.

    Raises:
        Unshareable: nothing is shared; what vLLM noted of the model is forgotten, so that it can be built again.
    """
    noted = vllm_config.compilation_config.static_forward_context
    before = dict(noted)
    try:
        opened = open_weights(shared, about_engine(vllm_config), open_)
        return _load(vllm_config, model_config, prefix, opened, merged, read)
    except Unshareable:
        noted.clear()
        noted.update(before)
        vllm_config.compilation_config.static_all_moe_layers.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise


def _load(
    vllm_config: VllmConfig, model_config: ModelConfig, prefix: str, opened: Opened, merged: set[str], read: Read
) -> tuple[nn.Module, int]:
    device = torch.device(vllm_config.load_config.device or vllm_config.device_config.device)
    stand_ins = StandIns(LEAST_BYTES)
    with set_default_torch_dtype(model_config.dtype):
        with device, stand_ins:
            model: nn.Module = initialize_model(vllm_config=vllm_config, model_config=model_config, prefix=prefix)
        _check_plain(model)
        names = Names(model)
        touched = {id(names.parameter(name)) for name in merged}
        theirs = dict[str, nn.Parameter]()
        own = list[torch.Tensor]()
        for aliases, parameter in names.parameters:
            if not stand_ins.is_one(parameter.data):
                continue
            name = None if id(parameter) in touched else opened.has(aliases, parameter)
            if name is None:
                give_memory(parameter)
                own.append(parameter)
            else:
                theirs[name] = parameter
        for buffer in model.buffers():
            if stand_ins.is_one(buffer):
                give_memory(buffer)
        left_out = {id(parameter) for parameter in theirs.values()}
        try:
            load: Any = model.load_weights
            load(read(lambda name: id(names.find(name)) not in left_out))
        except RuntimeError as error:
            raise Unshareable(f"the touched weights could not be loaded alone: {str(error).splitlines()[0]}") from error
        if any(holes(parameter) for parameter in own):
            raise Unshareable("the model has large weights that the checkpoint's names do not lead to")
        for name, parameter in theirs.items():
            parameter.data = opened.get(name)
        if left := stand_ins.left():
            raise Unshareable(f"{left} large tensors of the model are no parameters")
        process_weights_after_loading(model, model_config, device)
    _check_unchanged(theirs, opened)
    return model.eval(), sum(parameter.nbytes for parameter in theirs.values()) + _share_buffers(model, opened)


class Names:
    """From the checkpoint's names to the model's parameters, by the rules that vLLM's LoRA goes by."""

    def __init__(self, model: nn.Module) -> None:
        self._mapper = getattr(model, "hf_to_vllm_mapper", None)
        fused = getattr(model, "packed_modules_mapping", None) or {}
        self._fused = {part: whole for whole, parts in fused.items() for part in parts}
        self._by_name = dict(model.named_parameters(remove_duplicate=False))  # one that is tied has two names
        aliases: dict[int, list[str]] = {}
        for name, parameter in self._by_name.items():
            aliases.setdefault(id(parameter), []).append(name)
        self.parameters: list[tuple[list[str], nn.Parameter]] = [
            (aliases[id(parameter)], parameter) for _, parameter in model.named_parameters()
        ]

    def find(self, name: str) -> nn.Parameter | None:
        """Returns the parameter that a tensor of the checkpoint becomes, or becomes a part of; None if no rule says so."""
        for candidate in self._candidates(name):
            if (parameter := self._by_name.get(candidate)) is not None:
                return parameter
        return None

    def parameter(self, name: str) -> nn.Parameter:
        """The same; raises Unshareable."""
        if (parameter := self.find(name)) is None:
            raise Unshareable(f"{name} is no parameter of the model by any rule known here")
        return parameter

    def _candidates(self, name: str) -> Iterable[str]:
        for spelled in (name, self._mapper._map_name(name) if self._mapper is not None else None):
            if spelled is not None:
                module, _, leaf = spelled.rpartition(".")
                above, _, last = module.rpartition(".")
                yield ".".join(part for part in (above, self._fused.get(last, last), leaf) if part)


def _check_plain(model: nn.Module) -> None:
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is not None and type(method).__name__ not in _PLAIN:
            raise Unshareable(f"{name} is computed by {type(method).__name__}, which may change its weights")


def _check_unchanged(theirs: dict[str, nn.Parameter], opened: Opened) -> None:
    for name, parameter in theirs.items():
        opened.prove(name, parameter.data)


def _share_buffers(model: nn.Module, opened: Opened) -> int:
    """Takes the backbone's tables (of positions, say) where they are the same to the bit; they were computed here, not loaded."""
    total = 0
    for name, buffer in model.named_buffers():
        if opened.has([name], buffer) is not None and buffer.nbytes >= LEAST_BYTES:
            theirs = opened.get(name)
            if torch.equal(theirs, buffer):
                buffer.data = theirs
                total += buffer.nbytes
    return total
