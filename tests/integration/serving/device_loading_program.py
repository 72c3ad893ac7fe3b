"""Run by test_device_loading.py in a process of its own: vLLM's real model, built beside a backbone whose weights lie in files.

Files stand for a GPU's memory: a CPU has no CUDA IPC, and by the time that vLLM runs there its weights are packed. What is
loaded, left out and put in is the same.

usage: python device_loading_program.py BACKBONE MERGED_FOLDER WORK_FOLDER
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from serving_service.vllm_plugin import device_loading, device_weights

PROMPTS = ([40, 41, 42, 43], [60, 9, 12, 33, 80, 7], list(range(6, 90)))
LEAST = 64 << 10


class Loaded(nn.Module):
    """The parameters as vLLM has them, by name."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def named_parameters(self, *_: object, **__: object) -> Iterator[tuple[str, nn.Parameter]]:
        for name, tensor in self.tensors.items():
            yield name, nn.Parameter(tensor, requires_grad=False)


def as_vllm_has_it(backbone: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The checkpoint with q, k, v and gate, up fused."""
    own = {name: tensor.to(dtype) for name, tensor in load_file(backbone / "model.safetensors").items()}
    made = dict[str, torch.Tensor]()
    for name, tensor in own.items():
        if ".q_proj." in name:
            parts = [own[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            made[name.replace("q_proj", "qkv_proj.base_layer")] = torch.cat(parts)
        elif ".gate_proj." in name:
            made[name.replace("gate_proj", "gate_up_proj")] = torch.cat([tensor, own[name.replace("gate", "up")]])
        elif not any(part in name for part in (".k_proj.", ".v_proj.", ".up_proj.", "lm_head")):
            made[name] = tensor
    made["model.embed_tokens.weight"] = padded(made["model.embed_tokens.weight"])
    return made


def padded(table: torch.Tensor) -> torch.Tensor:
    """vLLM pads a vocabulary to whole 64s."""
    return torch.nn.functional.pad(table, (0, 0, 0, -table.shape[0] % 64))


def main(backbone: Path, merged: Path, work: Path) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, where it can be looked at
    device_weights.LEAST_BYTES = device_loading.LEAST_BYTES = LEAST
    from vllm import LLM, SamplingParams

    from serving_service.vllm_plugin import merged_loader, merged_worker  # noqa: F401  # registers the loader

    files = dict[str, list[Any]]()

    def export(tensor: torch.Tensor) -> list[Any]:
        path = work / f"{len(files)}.bin"
        path.write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return files.setdefault(path.name, [str(path), tensor.nbytes])

    def open_(handle: list[Any]) -> torch.UntypedStorage:
        return torch.UntypedStorage.from_file(handle[0], shared=True, nbytes=handle[1])

    load_beside, seen = device_loading.load_beside, dict[str, int]()

    def with_files(*args: Any) -> Any:
        model, seen["shared"] = load_beside(*args, open_=open_)
        return model, seen["shared"]

    device_loading.load_beside = with_files  # type: ignore[assignment]
    describe_of = as_vllm_has_it(backbone, torch.float32)

    def answers(shared: list[Any]) -> list[list[int]]:
        llm = LLM(
            str(backbone), dtype="float32", enforce_eager=True, kv_cache_memory_bytes=64 << 20, max_num_seqs=4,
            load_format="graft_merged", model_loader_extra_config={"folder": str(merged), "shared": shared},
            worker_extension_cls="serving_service.vllm_plugin.merged_worker.MergedWorkerExtension",
        )  # fmt: skip
        if shared:
            seen["told"] = llm.collective_rpc("graft_shared_bytes")[0]
            context["config"] = llm.llm_engine.vllm_config
        greedy = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], greedy, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    context = dict[str, Any]()
    about = device_loading.about_engine
    device_loading.about_engine = lambda config: {**about(config), "here": True}
    alone = answers([])
    shared = device_weights.describe(Loaded(describe_of), {}, export)
    first: dict[str, Any] = {}
    device_loading.about_engine = lambda config: first.setdefault("about", about(config))
    refused = answers([shared])  # of another backbone, by what it says of itself: loaded whole
    assert "shared" not in seen
    shared["about"] = first["about"]
    beside = answers([shared])
    damaged = {**shared, "tensors": [{**one, "sample": "0" * 64} for one in shared["tensors"]]}
    whole = sum(size for _, size in shared["weights"].values())
    share, told = seen.pop("shared"), seen["told"]
    unlike = answers([damaged])
    said = {"alone": alone, "refused": refused, "beside": beside, "unlike": unlike, "whole": whole, "shared": share}
    untouched = [Path(path).read_bytes() for path, _ in files.values()]
    intact = all(
        data == tensor.contiguous().view(torch.uint8).numpy().tobytes()
        for data, tensor in zip(untouched, describe_of.values(), strict=False)
    )
    print(json.dumps({**said, "told": told, "after": seen.get("shared", 0), "intact": intact}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
