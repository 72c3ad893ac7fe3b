"""A staging thread's work on vLLM's own loader and merging, without an engine: adapters' folders, and what staging makes of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import WorkerLoRAManager

from serving_service.vllm_plugin.adapter_kinds import Kinds
from serving_service.vllm_plugin.slot_packing import SlotPacking
from serving_service.vllm_plugin.staging import Stager
from tests.unit.serving.slots_world import SIZES, WIDTH, Slots

PARTS = {"q_proj": ("qkv", 0), "k_proj": ("qkv", 1), "v_proj": ("qkv", 2), "o": ("o", 0)}
"""What an adapter's file calls a module, and the slice of a slot that it is."""


def write_adapter(
    folder: Path,
    ranks: dict[str, int],
    *,
    alpha: int = 16,
    seed: int = 0,
    stored: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """Writes an adapter with something for some of `PARTS`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tensors = {}
    for name, rank in ranks.items():
        module, part = PARTS[name]
        out = SIZES[module][part]
        for side, shape in (("A", (rank, WIDTH)), ("B", (out, rank))):
            tensors[f"base_model.model.{name}.lora_{side}.weight"] = torch.randn(shape).to(stored)
    save_file(tensors, folder / "adapter_model.safetensors")
    made = {
        "r": max(ranks.values()),
        "lora_alpha": alpha,
        "target_modules": list(ranks),
        "rank_pattern": ranks,
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(made))
    return folder


def misalign(file: Path) -> None:
    """Makes a file's header one byte longer."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    file.write_bytes((length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :])


class Manager(Slots):
    """vLLM's manager of adapters, as far as staging needs it, with its own merging of q, k and v."""

    packed_modules: ClassVar = {"qkv": ["q_proj", "k_proj", "v_proj"]}
    packed_modules_mapping = packed_modules
    is_pooling_model = _enable_mixed_moe_lora_format = False
    lora_config = SimpleNamespace(target_modules=None)
    _create_merged_loras_inplace = LoRAModelManager._create_merged_loras_inplace
    _validate_moe_lora_format = LoRAModelManager._validate_moe_lora_format
    _get_lora_layer_weights = LoRAModelManager._get_lora_layer_weights


class Loads:
    """vLLM's loader of a worker; `folders` are those that it was asked for."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._adapter_manager, self._dtype, self.folders = Manager(), dtype, list[str]()

    def _load_adapter(self, request: LoRARequest) -> LoRAModel:
        self.folders.append(Path(request.lora_path).name)
        helper = PEFTHelper.from_local_dir(request.lora_path, None)
        return LoRAModel.from_local_checkpoint(
            request.lora_path, set(PARTS), helper, lora_model_id=request.lora_int_id, device="cpu", dtype=self._dtype
        )


class Staging:
    """Of one worker with slots of a type, as on a GPU.

    Attributes:
        loads: its loader.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.loads, self._ids = Loads(dtype), iter(range(1, 10**6))
        packing = SlotPacking(self.loads._adapter_manager, torch.empty(64, dtype=dtype), lambda: None)
        self._stager = Stager.__new__(Stager)  # without its threads and its socket

        def prepare(lora: Any) -> None:
            lora.graft_packed = packing.pack(lora)

        self._stager._manager: WorkerLoRAManager = self.loads
        self._stager._kinds, self._stager._filling = Kinds(), SimpleNamespace(prepare=prepare)

    def stage(self, folder: Path) -> Any:
        return self._stager._stage(LoRARequest("a", next(self._ids), str(folder)))


def same(one: Any, other: Any) -> bool:
    """Whether two adapters are the same for vLLM and for slots, but for their ids."""
    pieces = [lora.graft_packed for lora in (one, other)]
    if pieces[0].ranks != pieces[1].ranks or not torch.equal(pieces[0].numbers, pieces[1].numbers):
        return False
    return list(one.loras) == list(other.loras) and all(
        vars(layer).keys() == vars(other.loras[name]).keys()
        and all(_equal(found, vars(other.loras[name])[key]) for key, found in vars(layer).items())
        for name, layer in one.loras.items()
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype is other.dtype and torch.equal(one, other)
    return bool(one == other)


def memories(loras: Iterable[Any]) -> set[int]:
    """Where the numbers of adapters begin."""
    return {lora.graft_packed.numbers.data_ptr() for lora in loras}
