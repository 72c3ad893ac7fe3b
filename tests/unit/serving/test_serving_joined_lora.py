"""The slots' columns in one product with the base's: what comes out is what two products make, and the base's weight stays its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.lora.layers.column_parallel_linear import MergedQKVParallelLinearWithLoRA
from vllm.model_executor.layers.linear import UnquantizedLinearMethod

from serving_service.vllm_plugin import dense_joined
from serving_service.vllm_plugin.dense_lora import Slots, rehouse

SLOTS, RANK, WIDTH, SIZES = 4, 8, 24, (16, 8, 8)
dense_joined.install()


class Step:
    """Which rows have which slot (-1: none), as `dense_punica` knows it on a GPU, and what it was given."""

    def __init__(self, slots_of: list[int], most: int) -> None:
        self.others = torch.tensor(slots_of)[:, None] != torch.arange(SLOTS)
        self.busy, self.most = max(slots_of) >= 0, most
        self.inner: torch.Tensor | None = None

    def wants_inner(self, rows: int) -> bool:
        return self.busy and rows <= self.most

    def add(self, slots: Slots, y: torch.Tensor, x: torch.Tensor, inner: torch.Tensor | None) -> None:
        self.inner = inner
        slots.add(y, x, self.others, SLOTS)


def layer(*, bias: bool, base: torch.nn.Module | None = None) -> torch.nn.Module:
    """vLLM's layer of q, k and v, of which adapters touch q and v; all slots filled."""
    module = MergedQKVParallelLinearWithLoRA.__new__(MergedQKVParallelLinearWithLoRA)
    torch.nn.Module.__init__(module)
    module.n_slices, module.output_slices = len(SIZES), SIZES
    module.base_layer = base or torch.nn.Linear(WIDTH, sum(SIZES), bias=bias).requires_grad_(False)
    module.base_layer.quant_method = UnquantizedLinearMethod()
    module.lora_a_stacked = tuple(torch.randn(SLOTS, 1, RANK, WIDTH) for _ in SIZES)
    module.lora_b_stacked = tuple(torch.randn(SLOTS, 1, size, RANK) for size in SIZES)
    return module


def house(module: torch.nn.Module, step: Step) -> Slots:
    weight = dense_joined.base_weight(module)
    assert weight is not None
    housed, a, b = rehouse(module.lora_a_stacked, module.lora_b_stacked, [True, False, True], weight)
    module.lora_a_stacked, module.lora_b_stacked = a, b
    dense_joined.join(module, housed, lambda y, x, inner: step.add(housed, y, x, inner), step.wants_inner)
    return housed


@settings(max_examples=40, deadline=None)
@given(
    slots_of=st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=20),
    bias=st.booleans(),
    most=st.sampled_from((4, 100)),
    batched=st.booleans(),
    seed=st.integers(0, 99),
)
def test_one_product_is_what_two_are(slots_of: list[int], bias: bool, most: int, batched: bool, seed: int) -> None:
    torch.manual_seed(seed)
    module, step = layer(bias=bias), Step(slots_of, most)
    weight, given_bias = module.base_layer.weight.clone(), module.base_layer.bias
    housed = house(module, step)
    x = torch.randn(len(slots_of), WIDTH)
    want = torch.nn.functional.linear(x, weight, given_bias)
    housed.add(want, x, step.others, SLOTS)
    made = module.apply(x[None] if batched else x, given_bias)
    assert made.shape == (want[None] if batched else want).shape
    assert torch.allclose(made.view_as(want), want, atol=1e-4)
    assert torch.equal(module.base_layer.weight, weight), "what engines of merged weights read"
    assert module.base_layer.weight.is_contiguous()
    if step.wants_inner(len(x)):
        assert step.inner is not None
        assert torch.allclose(step.inner, x @ housed.a.T, atol=1e-4)
    else:
        assert step.inner is None


@pytest.mark.parametrize("busy", [False, True])
def test_compiled_code_knows_how_the_rows_lie(busy: bool) -> None:
    """A step with the slots' columns and one without must lie alike, for one graph is compiled for both."""
    step = Step([0, -1, 3] if busy else [-1] * 3, 100)
    module = layer(bias=False)
    house(module, step)

    def cut(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, _, v = module.apply(x).split(SIZES, dim=-1)
        return q * 2, v.reshape(len(x), 2, -1)

    x = torch.randn(3, WIDTH)
    compiled = torch.compile(cut, backend="aot_eager", fullgraph=True, dynamic=True)
    for one, other in zip(compiled(x), cut(x), strict=True):
        assert torch.equal(one, other)
    assert module.apply(x).stride() == (sum(SIZES) + 2 * SLOTS * RANK, 1)


def test_a_slot_is_read_as_it_is_written() -> None:
    """vLLM writes adapters through the stacked views; the joined weight must be the same memory."""
    step = Step([2], 100)
    module = layer(bias=False)
    house(module, step)
    x = torch.randn(1, WIDTH)
    before = module.apply(x).clone()
    module.lora_a_stacked[0][2] = 0
    module.lora_a_stacked[2][2] = 0
    plain = torch.nn.functional.linear(x, module.base_layer.weight)
    assert not torch.allclose(before, plain, atol=1e-3)
    assert torch.allclose(module.apply(x), plain, atol=1e-5)


def test_layers_whose_product_is_not_plain_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dense_joined.base_weight(layer(bias=False)) is not None
    quantised = layer(bias=False)
    quantised.base_layer.quant_method = object()
    assert dense_joined.base_weight(quantised) is None
    assert dense_joined.base_weight(torch.nn.Linear(2, 2)) is None
    other_type = layer(bias=False, base=torch.nn.Linear(WIDTH, sum(SIZES), bias=False, dtype=torch.bfloat16))
    assert dense_joined.base_weight(other_type) is None
    more_rows = layer(bias=False, base=torch.nn.Linear(WIDTH, sum(SIZES) + 1, bias=False))
    assert dense_joined.base_weight(more_rows) is None
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert dense_joined.base_weight(layer(bias=False)) is None
