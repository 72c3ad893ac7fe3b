"""Slots of vLLM's own layers without an engine, and adapters for them: what tests of writing into slots share."""

from types import SimpleNamespace
from typing import Any

import torch
from vllm.lora.layers.column_parallel_linear import MergedQKVParallelLinearWithLoRA
from vllm.lora.layers.row_parallel_linear import RowParallelLinearWithLoRA

RANK, SLOTS, WIDTH = 8, 3, 12
SIZES = {"qkv": (10, 6, 6), "o": (12,)}


class Embedding:
    """A module that is not linear: only vLLM's own calls write it."""

    def __init__(self) -> None:
        self.held: dict[int, str] = {}

    def set_lora(self, slot: int, lora_a: Any, lora_b: Any) -> None:
        self.held[slot] = str(lora_a)

    def reset_lora(self, slot: int) -> None:
        self.held[slot] = ""


def layer(name: str) -> Any:
    kind = MergedQKVParallelLinearWithLoRA if name == "qkv" else RowParallelLinearWithLoRA
    made = kind.__new__(kind)
    torch.nn.Module.__init__(made)
    made.tp_size, made.n_slices = 1, len(SIZES[name])
    made.lora_a_stacked = tuple(torch.zeros(SLOTS, 1, RANK, WIDTH) for _ in SIZES[name])
    made.lora_b_stacked = tuple(torch.zeros(SLOTS, 1, size, RANK) for size in SIZES[name])
    return made


class Slots:
    """vLLM's manager, as far as writing needs it; `expected` holds the same slots written by vLLM's own calls."""

    def __init__(self) -> None:
        self.modules = {name: layer(name) for name in SIZES} | {"embed": Embedding()}
        self.lora_slots, self.device = SLOTS, torch.device("cpu")
        self.expected = {name: layer(name) for name in SIZES} | {"embed": Embedding()}

    def _get_lora_layer_weights(self, lora: Any, name: str) -> Any:
        return lora.loras.get(name)

    def adapter(self, ranks: dict[str, tuple[int, ...]], embed: str = "") -> Any:
        """Makes one of random numbers; ranks of slices, 0 for those it has nothing for."""
        loras = dict[str, Any]()
        for name, of in ranks.items():
            a = [torch.randn(rank, WIDTH) if rank else None for rank in of]
            b = [torch.randn(size, rank) if rank else None for size, rank in zip(SIZES[name], of, strict=True)]
            if any(of):
                lists = (a, b) if name == "qkv" else (a[0], b[0])
                loras[name] = SimpleNamespace(lora_a=lists[0], lora_b=lists[1])
        if embed:
            loras["embed"] = SimpleNamespace(lora_a=embed, lora_b=embed)
        return SimpleNamespace(loras=loras)

    def expect(self, slot: int, lora: Any) -> None:
        """Has vLLM's own calls write `expected`."""
        for name, module in self.expected.items():
            weights = self._get_lora_layer_weights(lora, name)
            if weights:
                module.set_lora(slot, weights.lora_a, weights.lora_b)
            else:
                module.reset_lora(slot)

    def check(self) -> None:
        """Raises AssertionError where the slots are not what vLLM's calls would have made of them."""
        for name in SIZES:
            for side in ("lora_a_stacked", "lora_b_stacked"):
                ours, vllms = getattr(self.modules[name], side), getattr(self.expected[name], side)
                for one, other in zip(ours, vllms, strict=True):
                    assert torch.equal(one, other), (name, side)
        assert {slot: held for slot, held in self.modules["embed"].held.items() if held} == {
            slot: held for slot, held in self.expected["embed"].held.items() if held
        }
