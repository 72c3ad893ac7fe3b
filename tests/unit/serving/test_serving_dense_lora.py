"""LoRA of all slots in two products: whatever mix a step has, each row gets its own adapter's part and the base's rows none."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_service.vllm_plugin import dense_lora
from serving_service.vllm_plugin.dense_lora import Stacked, rehouse

SLOTS, RANK, WIDTH, SIZES = 4, 8, 24, (16, 8, 8)


@st.composite
def steps(draw: Any) -> tuple[list[int], list[bool], list[int], int]:
    """Slots of the rows in runs as a batch has them, -1 for the base; which slices adapters touch; ranks of the slots; a seed."""
    runs = draw(st.lists(st.tuples(st.integers(-1, SLOTS - 1), st.integers(1, 40)), min_size=1, max_size=6))
    touched = draw(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
    ranks = draw(st.lists(st.sampled_from((1, 3, RANK)), min_size=SLOTS, max_size=SLOTS))
    return [slot for slot, count in runs for _ in range(count)], touched, ranks, draw(st.integers(0, 99))  # fmt: skip


def empty(dtype: torch.dtype) -> tuple[Stacked, Stacked]:
    """Slots as vLLM makes them."""
    return (
        tuple(torch.zeros(SLOTS, 1, RANK, WIDTH, dtype=dtype) for _ in SIZES),
        tuple(torch.zeros(SLOTS, 1, size, RANK, dtype=dtype) for size in SIZES),
    )


def fill(a: Stacked, b: Stacked, touched: list[bool], ranks: list[int]) -> None:
    """Writes adapters into slots as vLLM's `set_lora` does: into the stacked tensors, a slot and a slice at a time."""
    for slot, rank in enumerate(ranks):
        for one, two, used in zip(a, b, touched, strict=True):
            one[slot], two[slot] = 0, 0
            if used:
                one[slot, 0, :rank, :WIDTH].copy_(torch.randn(rank, WIDTH))
                two[slot, 0, : two.shape[2], :rank].copy_(torch.randn(two.shape[2], rank))


def others(slots: list[int]) -> torch.Tensor:
    return torch.tensor(slots)[:, None] != torch.arange(SLOTS)


def expected(y: torch.Tensor, x: torch.Tensor, a: Stacked, b: Stacked, slots: list[int]) -> torch.Tensor:
    made = y.double()
    for row, slot in enumerate(slots):
        if slot >= 0:
            parts = [
                x[row].double() @ one[slot, 0].double().T @ two[slot, 0].double().T
                for one, two in zip(a, b, strict=True)
            ]
            made[row] += torch.cat(parts)
    return made  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most", [100, dense_lora._MOST_NUMBERS], ids=["in pieces", "at once"])
@settings(max_examples=40)
@given(step=steps())
def test_each_row_gets_its_own_adapter_and_the_base_none(
    step: tuple[list[int], list[bool], list[int], int], most: int, dtype: torch.dtype
) -> None:
    slots, touched, ranks, seed = step
    torch.manual_seed(seed)
    housed, a, b = rehouse(*empty(dtype), touched)
    fill(a, b, touched, ranks)
    x = torch.randn(len(slots), WIDTH).to(dtype)
    y = torch.randn(len(slots), sum(SIZES)).to(dtype)
    want, base = expected(y, x, a, b, slots), [row for row, slot in enumerate(slots) if slot < 0]
    untouched = y[base].clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_lora, "_MOST_NUMBERS", most)
        for used in {SLOTS, max(1, *(slot + 1 for slot in slots))}:
            made = y.clone()
            housed.add(made, x, others(slots), used)
            rounding = 1e-5 if dtype is torch.float32 else 2**-7  # bfloat16 rounds x A, its product with B, and the sum
            scale = x.double().norm(dim=1, keepdim=True) * max(float(one.double().norm()) for one in (*a, *b, y)) + 1
            assert bool(((made.double() - want).abs() <= rounding * scale * 4).all())
            assert torch.equal(made[base], untouched)


def test_a_slot_is_read_as_it_is_written() -> None:
    """The next adapter in a slot must not be answered with the one before."""
    housed, a, b = rehouse(*empty(torch.float32), [True] * 3)
    x, answers = torch.randn(2, WIDTH), []
    for _ in range(2):
        fill(a, b, [True] * 3, [RANK] * SLOTS)
        y = torch.zeros(2, sum(SIZES))
        housed.add(y, x, others([1, 1]), SLOTS)
        assert torch.allclose(y.double(), expected(torch.zeros_like(y), x, a, b, [1, 1]), atol=1e-4)
        answers.append(y)
    assert not torch.allclose(*answers)


def test_an_adapter_that_overflows_spoils_nobody_elses_rows() -> None:
    housed, a, b = rehouse(*empty(torch.float32), [True] * 3)
    fill(a, b, [True] * 3, [RANK] * SLOTS)
    for one in a:
        one[2, 0] = 3e38
    x, y = torch.rand(3, WIDTH) + 1, torch.zeros(3, sum(SIZES))
    housed.add(y, x, others([0, 2, -1]), SLOTS)
    assert not y[1].isfinite().all(), "the adapter does overflow"
    assert y[0].isfinite().all()
    assert torch.equal(y[2], torch.zeros(sum(SIZES)))


def test_slots_keep_what_they_held_and_their_shapes() -> None:
    a, b = empty(torch.float32)
    fill(a, b, [True] * 3, [RANK] * SLOTS)
    _, new_a, new_b = rehouse(a, b, [True, False, True])
    for old, new in zip((*a, *b), (*new_a, *new_b), strict=True):
        assert old.shape == new.shape
        assert torch.equal(old, new)
