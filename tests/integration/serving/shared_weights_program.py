"""Run by test_vllm_shared_weights.py in processes of its own: shares the weights of layers that vLLM has packed.

usage: python shared_weights_program.py shared|elsewhere
"""

import os
import random
import sys
from pathlib import Path

import torch
from torch import nn
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from serving_service.vllm_plugin import packed_weights, shared_weights


class Layer(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        dispatch_cpu_unquantized_gemm(self, remove_weight=True)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        return self.cpu_linear(x, None, None)  # type: ignore[no-any-return]


class Model(nn.Module):
    def __init__(self, weights: list[torch.Tensor], table: torch.Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(weight.clone()) for weight in weights)
        self.table = nn.Embedding.from_pretrained(table.clone())
        self.norm = nn.LayerNorm(64)

    def answers(self) -> list[torch.Tensor]:
        torch.manual_seed(1)
        products = [layer.product(torch.randn(rows, layer.k)) for rows in (1, 5, 130) for layer in self.layers]
        return [*products, self.table.weight.clone()]


def models(weights: list[torch.Tensor], table: torch.Tensor) -> Model:
    made = Model(weights, table)
    for layer, weight in zip(made.layers, weights, strict=True):
        layer.k = weight.shape[1]
    return made


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def shared() -> None:
    """Random sizes, each time some rows of some matrices changed: results stay to the bit, and only what differs is private."""
    chance, given_back, give_back = random.Random(3), list[int](), shared_weights.give_back
    shared_weights.give_back = lambda: (given_back.append(1), give_back())[1]
    for _ in range(6):
        sizes = [(chance.randrange(100, 2400), chance.randrange(100, 900)) for _ in range(3)]
        weights, table = [torch.randn(size) for size in sizes], torch.randn(chance.randrange(300, 900), 64)
        frozen = models(weights, table)
        before = frozen.answers()
        told = shared_weights.publish(frozen)
        assert len(told["weights"]) == 4, told
        assert same(frozen.answers(), before)
        file = os.open(told["path"], os.O_RDWR)
        try:
            os.pwrite(file, b"x", 0)
        except PermissionError:
            os.close(file)
        else:
            raise AssertionError("the shared file can be written")

        changed = [weight.clone() for weight in weights]
        rows = chance.randrange(1, sizes[0][0])
        changed[0][:rows] += 1
        merged = models(changed, table)
        wanted = merged.answers()
        total = sum(size for _, size in told["weights"].values())
        given_back.clear()
        shared_weights._TRIM_BYTES = max(size for _, size in told["weights"].values()) + 1  # no single one has so much
        saved = shared_weights.adopt(merged, told)
        assert len(given_back) > 1, "what is freed goes back on the way, not only in the end"
        # Packed in blocks of rows: at most one block (and a page at its ends) beyond the rows is private.
        private = (rows + 64) * -(-sizes[0][1] // 16) * 16 * 4 + 2 * shared_weights.PAGE
        assert total - private <= saved < total, (total, saved, private)
        assert same(merged.answers(), wanted)
        assert same(frozen.answers(), before)
        del merged, frozen  # frees handlers whose matrices are elsewhere


def elsewhere() -> None:
    """Were the pointer elsewhere, nothing would be shared and nothing broken."""
    weights, table = [torch.randn(500, 300), torch.randn(700, 128)], torch.randn(400, 64)
    for name, value in (("_DATA", 4), ("_STORAGES", 98), ("_WEIGHTS", 34), ("_DIMS", 5), ("_MAP_FIRST_NODE", 7)):
        right = getattr(packed_weights, name)
        frozen = models(weights, table)
        before = frozen.answers()
        setattr(packed_weights, name, value)
        told = shared_weights.publish(frozen)
        assert not [key for key in told.get("weights", ()) if key.endswith(":packed")], (name, told)
        assert same(frozen.answers(), before), name
        setattr(packed_weights, name, right)
        told = shared_weights.publish(models(weights, table))
        assert told
        setattr(packed_weights, name, value)
        merged = models(weights, table)
        shared_weights.adopt(merged, told)
        assert same(merged.answers(), before), name
        setattr(packed_weights, name, right)


if __name__ == "__main__":
    assert Path("/proc/self/mem").exists()
    current_platform.import_kernels()
    {"shared": shared, "elsewhere": elsewhere}[sys.argv[1]]()
    print("ok")  # noqa: T201
