"""On a GPU a step's LoRA is what the formula says, for any mix of slots, base rows and rows that only a CUDA graph has."""

import importlib
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

SIZES, WIDTH = (128, 64, 64), 256


def house(slots: int, rank: int, *, joined: bool = False, bias: bool = False) -> tuple[Any, Any]:
    """A q, k, v module of which adapters may touch q and v, filled; and the wrapper that it is housed with.

    `joined` has the base's weight too, which the slots' A are laid behind.
    """
    from vllm.config.lora import LoRAConfig

    from serving_service.vllm_plugin import dense_punica

    config = LoRAConfig(max_lora_rank=rank, max_loras=slots, max_cpu_loras=slots, target_modules=["q_proj", "v_proj"])
    wrapper = dense_punica.DensePunicaGPU(8192, 256, "cuda", lora_config=config)
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.layers.column_parallel_linear import MergedQKVParallelLinearWithLoRA
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    kind = MergedQKVParallelLinearWithLoRA if joined else BaseLinearLayerWithLoRA
    module = kind.__new__(kind)
    torch.nn.Module.__init__(module)
    if joined:
        module.base_layer = torch.nn.Linear(WIDTH, sum(SIZES), bias=bias, dtype=torch.bfloat16, device="cuda")
        module.base_layer.requires_grad_(False)
        module.base_layer.quant_method = UnquantizedLinearMethod()
        module.output_slices = SIZES
    module.n_slices, module.punica_wrapper = len(SIZES), wrapper
    module.lora_a_stacked = tuple(
        torch.zeros(slots, 1, rank, WIDTH, dtype=torch.bfloat16, device="cuda") for _ in SIZES
    )
    module.lora_b_stacked = tuple(
        torch.zeros(slots, 1, size, rank, dtype=torch.bfloat16, device="cuda") for size in SIZES
    )
    children = [f"layers.0.{name}_proj" for name in "qkv"]
    dense_punica.house(
        SimpleNamespace(
            lora_config=config, modules={"layers.0.qkv_proj": module}, packed_modules={"layers.0.qkv_proj": children}
        )
    )
    for slice_ in (0, 2):
        module.lora_a_stacked[slice_].normal_(0, WIDTH**-0.5)
        module.lora_b_stacked[slice_].normal_(0, rank**-0.5)
    return wrapper, module


def tell(wrapper: Any, rows: list[int], slots: int) -> None:
    """Tells the wrapper of a step as vLLM does; rows are slots, -1 for the base."""
    from vllm.lora.layers import LoRAMapping

    ids = tuple(slot + 1 for slot in rows)
    wrapper.update_metadata(LoRAMapping(ids, ids, is_prefill=True), [*range(1, slots + 1)], slots + 1, 100)


def expected(y: torch.Tensor, x: torch.Tensor, module: Any, rows: list[int]) -> torch.Tensor:
    made, start = y.double(), 0
    where = torch.tensor(rows, device="cuda")
    for a, b, size in zip(module.lora_a_stacked, module.lora_b_stacked, SIZES, strict=True):
        for slot in set(rows) - {-1}:
            own = (where == slot).nonzero().flatten()
            made[own, start : start + size] += x[own].double() @ a[slot, 0].double().T @ b[slot, 0].double().T
        start += size
    return made


@pytest.mark.parametrize("tokens", [1, 17, 64, 300, 1500, 5000])
@pytest.mark.parametrize(("slots", "rank"), [(4, 8), (8, 16), (64, 64)])
def test_each_row_gets_its_own_adapter_and_the_base_none(slots: int, rank: int, tokens: int) -> None:
    torch.manual_seed(tokens)
    draw = random.Random(tokens)
    wrapper, module = house(slots, rank)
    rows = [draw.randrange(-1, slots) for _ in range(tokens)]
    tell(wrapper, rows, slots)
    x = torch.randn(tokens, WIDTH, dtype=torch.bfloat16, device="cuda")
    y = torch.randn(tokens, sum(SIZES), dtype=torch.bfloat16, device="cuda")
    want, base, made = expected(y, x, module, rows), torch.tensor(rows, device="cuda") < 0, y.clone()
    wrapper.add_lora_linear(made, x, module.lora_a_stacked, module.lora_b_stacked, 1.0, SIZES)
    assert float((made.double() - want).abs().max()) <= 2**-6 * float(want.abs().max())
    assert torch.equal(made[base], y[base])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 17, 64, 300, 1500, 5000])
def test_one_product_of_the_base_and_the_slots_is_what_two_are(tokens: int, bias: bool) -> None:
    draw = random.Random(tokens)
    torch.manual_seed(tokens)
    slots, install = 8, importlib.import_module("serving_service.vllm_plugin.dense_joined").install
    install()
    wrapper, module = house(slots, 16, joined=True, bias=bias)
    weight, given = module.base_layer.weight.data.clone(), module.base_layer.bias
    x = torch.randn(tokens, WIDTH, dtype=torch.bfloat16, device="cuda")
    plain = torch.nn.functional.linear(x, weight, given)

    def queries_and_values(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, _, v = module.apply(x, given).split(SIZES, dim=-1)
        return q * 1.0, v.reshape(len(x), 2, -1)

    for most in (0, 2, slots):  # none, the first ones, all
        rows = [draw.randrange(-1, most) for _ in range(tokens)]
        tell(wrapper, rows, slots)
        want = expected(plain, x, module, rows)
        made = module.apply(x, given)
        assert made.shape == plain.shape
        assert float((made.double() - want).abs().max()) <= 2**-6 * float(want.abs().max())
        assert float((made[:, SIZES[0] : -SIZES[2]].double() - plain[:, SIZES[0] : -SIZES[2]]).abs().max()) <= 2**-6
        compiled = torch.compile(queries_and_values, fullgraph=True, dynamic=True)(x)
        for one, other in zip(compiled, queries_and_values(x), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(module.base_layer.weight, weight), "what engines of merged weights open"


def test_a_graph_answers_for_the_step_it_is_replayed_for() -> None:
    """It is made with one mix of slots and replayed with others, and with fewer rows than it has."""
    slots, rows_of_graph = 8, 32
    wrapper, module = house(slots, 16)
    x = torch.randn(rows_of_graph, WIDTH, dtype=torch.bfloat16, device="cuda")
    y = torch.zeros(rows_of_graph, sum(SIZES), dtype=torch.bfloat16, device="cuda")

    def step() -> None:
        y.zero_()
        wrapper.add_lora_linear(y, x, module.lora_a_stacked, module.lora_b_stacked, 1.0, SIZES)

    tell(wrapper, [row % slots for row in range(rows_of_graph)], slots)
    step()  # compiles the kernel, which may not happen while a graph is made
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for rows in ([7] * 32, [-1] * 32, [-1] * 31 + [3], [5, -1, 0, 6] * 5):
        tell(wrapper, rows, slots)
        graph.replay()
        want = expected(torch.zeros_like(y[: len(rows)]), x[: len(rows)], module, rows)
        assert float((y[: len(rows)].double() - want).abs().max()) <= 2**-6 * float(want.abs().max())
        assert not y[len(rows) :].any(), "rows that the step does not have"


def test_an_adapter_that_overflows_spoils_nobody_elses_rows() -> None:
    wrapper, module = house(4, 8)
    module.lora_a_stacked[0][2] = 3e38
    for tokens in (4, 600, 5000):
        rows = [0, 2, -1, 1] * (tokens // 4)
        tell(wrapper, rows, 4)
        x = torch.rand(tokens, WIDTH, dtype=torch.bfloat16, device="cuda") + 1
        y = torch.zeros(tokens, sum(SIZES), dtype=torch.bfloat16, device="cuda")
        wrapper.add_lora_linear(y, x, module.lora_a_stacked, module.lora_b_stacked, 1.0, SIZES)
        overflowed = torch.tensor(rows, device="cuda") == 2
        assert not y[overflowed].isfinite().all(), "the adapter does overflow"
        assert y[~overflowed].isfinite().all()
