"""Run by test_device_loading.py in a process of its own: vLLM's real model, built beside a backbone whose weights lie in files.

Files stand for a GPU's memory: a CPU has no CUDA IPC, and there vLLM packs its weights once they are loaded. What is built
without memory, read, left out and put in is the same. No engine runs: each product of a model is compared instead.

usage: python device_loading_program.py BACKBONE MERGED_FOLDER WORK_FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file
from torch import nn
from vllm.config import set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model_loader

from serving_service.vllm_plugin import device_loading, device_weights, merged_worker
from serving_service.vllm_plugin.device_weights import Shared, describe

LEAST = 64 << 10
"""The shipped backbone's largest matrices have a few hundred KiB."""
assert merged_worker.LOAD_FORMAT == "graft_merged"  # importing it has registered the loader


class Backbone(nn.Module):
    """The checkpoint as vLLM has it in an engine with LoRA: q, k, v and gate, up fused, the vocabulary padded."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        own = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        for name, tensor in own.items():
            if ".q_proj." in name:
                parts = [own[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                self._put(name.replace("q_proj", "qkv_proj.base_layer"), torch.cat(parts))
            elif ".gate_proj." in name:
                fused = torch.cat([tensor, own[name.replace("gate_proj", "up_proj")]])
                self._put(name.replace("gate_proj", "gate_up_proj"), fused)
            elif "embed_tokens" in name:
                self._put(name, nn.functional.pad(tensor, (0, 0, 0, -tensor.shape[0] % 64)))
            elif not any(part in name for part in (".k_proj.", ".v_proj.", ".up_proj.", "lm_head")):
                self._put(name, tensor)

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        *path, leaf = name.split(".")
        module: nn.Module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


class Files:
    """Memory that another process could open, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: list[Path] = []

    def export(self, tensor: torch.Tensor) -> list[Any]:
        self.written.append(self._folder / f"{len(self.written)}.bin")
        self.written[-1].write_bytes(tensor.view(-1).view(torch.uint8).numpy().tobytes())
        return [str(self.written[-1]), tensor.nbytes]

    def open(self, handle: list[Any]) -> torch.UntypedStorage:
        return torch.UntypedStorage.from_file(handle[0], shared=True, nbytes=handle[1])


def load(backbone: Path, merged: Path, shared: list[Shared]) -> nn.Module:
    """Loads as an engine of merged weights does."""
    config = EngineArgs(
        model=str(backbone), dtype="float32", enforce_eager=True, load_format="graft_merged",
        model_loader_extra_config={"folder": str(merged), "shared": shared},
    ).create_engine_config()  # fmt: skip
    with set_current_vllm_config(config):
        ensure_model_parallel_initialized(1, 1)
        loader = get_model_loader(config.load_config)
        return loader.load_model(vllm_config=config, model_config=config.model_config)


def products(model: nn.Module) -> list[torch.Tensor]:
    """What the model makes of the same numbers, matrix by matrix, and its tables."""
    found = []
    for _, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if hasattr(module, "input_size_per_partition"):
            torch.manual_seed(1)
            found.append(method.apply(module, torch.randn(3, module.input_size_per_partition)))
    return [*found, *(parameter.detach() for parameter in model.parameters() if parameter.numel())]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) > 20 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def main(backbone: Path, merged: Path, work: Path) -> None:
    device_weights.LEAST_BYTES = device_loading.LEAST_BYTES = LEAST  # type: ignore[misc]
    torch.accelerator.empty_cache = lambda: None  # as vLLM's worker for CPUs has it
    init_distributed_environment(1, 0, f"file://{work}/rendezvous", 0, backend="gloo")
    files = Files(work)
    device_loading.load_beside.__kwdefaults__ = None
    device_loading.load_beside.__defaults__ = (files.open,)
    config = EngineArgs(model=str(backbone), dtype="float32").create_engine_config()
    about = device_loading.about_engine(config)
    shared = describe(Backbone(backbone), about, files.export)
    msgspec.msgpack.encode(
        shared
    )  # as it goes to the service; vLLM never answers a call whose answer cannot be encoded
    before = [file.read_bytes() for file in files.written]
    alone = load(backbone, merged, [])
    wanted, whole = products(alone), sum(size for _, size in shared["weights"].values())
    beside = load(backbone, merged, [shared])
    damaged = {**shared, "tensors": [{**one, "sample": "0" * 64} for one in shared["tensors"]]}
    fewer = {**shared, "weights": {name: at for name, at in shared["weights"].items() if "down_proj" not in name}}
    tried = {
        "another backbone": load(backbone, merged, [{**shared, "about": {**about, "checkpoint": "another"}}]),
        "an owner that is gone": load(backbone, merged, [{**shared, "owner": [shared["owner"][0], 1]}]),
        "other bytes": load(backbone, merged, [damaged]),
        "some not exported": load(backbone, merged, [fewer]),
    }
    said = {
        "described": whole,
        "touched": sum(size for name, (_, size) in shared["weights"].items() if "qkv" in name),
        "shared": beside.graft_shared_bytes,
        "same": same(products(beside), wanted),
        "like_base": same(wanted, products(load(backbone, merged.parent / "nothing", []))),
        "tried": {name: [model.graft_shared_bytes, same(products(model), wanted)] for name, model in tried.items()},
        "intact": before == [file.read_bytes() for file in files.written],
    }
    print(json.dumps(said))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
