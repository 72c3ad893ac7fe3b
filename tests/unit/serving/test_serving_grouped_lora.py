"""LoRA's arithmetic on a CPU: whatever mix a step has, each row gets its own adapter's part and the base's rows get none."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.lora.layers import LoRAMapping

from serving_service.vllm_plugin import cpu_lora_rows, grouped_punica
from serving_service.vllm_plugin.grouped_punica import GroupedPunicaCPU

SLOTS, RANK, WIDTH, SIZES = 4, 16, 48, (16, 8, 12)


@st.composite
def steps(draw: Any) -> tuple[list[int], list[list[int]], int]:
    """Slots of the rows in runs as a batch has them, -1 for the base; the ranks of each slice's slots; a seed."""
    runs = draw(st.lists(st.tuples(st.integers(-1, SLOTS - 1), st.integers(1, 40)), min_size=1, max_size=6))
    ranks = draw(
        st.lists(
            st.lists(st.sampled_from((0, 1, 3, 8, 11, RANK)), min_size=SLOTS, max_size=SLOTS), min_size=3, max_size=3
        )
    )
    return [slot for slot, count in runs for _ in range(count)], ranks, draw(st.integers(0, 99))  # fmt: skip


def weights(ranks: list[list[int]], dtype: torch.dtype) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    made_a, made_b = [], []
    for size, of in zip(SIZES, ranks, strict=True):
        a, b = torch.zeros(SLOTS, 1, RANK, WIDTH, dtype=dtype), torch.zeros(SLOTS, 1, size, RANK, dtype=dtype)
        for slot, rank in enumerate(of):
            a[slot, 0, :rank] = torch.randn(rank, WIDTH).to(dtype)
            b[slot, 0, :, :rank] = torch.randn(size, rank).to(dtype)
        made_a.append(a)
        made_b.append(b)
    return tuple(made_a), tuple(made_b)


def wrapper(slots: list[int]) -> GroupedPunicaCPU:
    """Told of the step as vLLM tells it: ids of adapters, 0 for none, and which id each slot holds."""
    made = GroupedPunicaCPU(256, 256, "cpu")
    ids = tuple(slot + 1 for slot in slots)
    made.update_metadata(LoRAMapping(ids, ids, is_prefill=True), [*range(1, SLOTS + 1)], SLOTS, 100)
    return made


@contextmanager
def in_threads(count: int) -> Iterator[None]:
    """Lets compiled loops have so many."""
    before = torch.get_num_threads()
    torch._C.set_num_threads(count)  # vLLM's import may have replaced the public one
    yield
    torch._C.set_num_threads(before)


def expected(
    y: torch.Tensor, x: torch.Tensor, a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...], slots: list[int]
) -> torch.Tensor:
    made = y.double()
    for row, slot in enumerate(slots):
        if slot >= 0:
            parts = [
                x[row].double() @ one[slot, 0].double().T @ two[slot, 0].double().T
                for one, two in zip(a, b, strict=True)
            ]
            made[row] += torch.cat(parts)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("few", "threads"),
    [(0, 1), (cpu_lora_rows.FEW_ROWS, 1), (cpu_lora_rows.FEW_ROWS, 3)],
    ids=["products", "the loops", "the loops in threads"],
)
@settings(max_examples=40)
@given(step=steps())
def test_each_row_gets_its_own_adapter_and_the_base_none(
    step: tuple[list[int], list[list[int]], int], few: int, threads: int, dtype: torch.dtype
) -> None:
    slots, ranks, seed = step
    torch.manual_seed(seed)
    (a, b), x = weights(ranks, dtype), torch.randn(len(slots), WIDTH).to(dtype)
    y = torch.randn(len(slots), sum(SIZES)).to(dtype)
    want = expected(y, x, a, b, slots)
    base = [row for row, slot in enumerate(slots) if slot < 0]
    untouched = y[base].clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped_punica, "FEW_ROWS", few)
        patch.setattr(cpu_lora_rows, "SHARED_BYTES", 0)
        with in_threads(threads):
            wrapper(slots).add_lora_linear(y, x, a, b, 1.0, SIZES)
    rounding = 1e-5 if dtype is torch.float32 else 2**-7  # bfloat16 rounds x A, its product with B, and the sum
    scale = x.double().norm(dim=1, keepdim=True) * max(float(one.double().norm()) for one in (*a, *b, y)) + 1
    assert bool(((y.double() - want).abs() <= rounding * scale * 4).all())
    assert torch.equal(y[base], untouched)


def test_rows_that_do_not_lie_side_by_side_are_computed_all_the_same() -> None:
    """What a layer hands over may be columns of something wider; the loop takes only whole rows of memory."""
    slots, x = [0, 1, -1, 2], torch.randn(4, WIDTH * 2)[:, :WIDTH]
    a, b = weights([[RANK, 3, 1, 0]] * 3, torch.float32)
    y = torch.zeros(4, sum(SIZES) * 2)[:, : sum(SIZES)]
    wrapper(slots).add_lora_linear(y, x, a, b, 1.0, SIZES)
    torch.testing.assert_close(y.double(), expected(torch.zeros(4, sum(SIZES)), x, a, b, slots), rtol=1e-4, atol=1e-4)


def test_rows_of_another_type_than_the_slots_do_not_go_through_the_loops() -> None:
    """They would be read as numbers of the slots' type; torch says what it does not multiply."""
    a, b = weights([[RANK] * SLOTS] * 3, torch.bfloat16)
    y = torch.zeros(2, sum(SIZES))
    with pytest.raises(RuntimeError, match="dtype"):
        wrapper([0, 1]).add_lora_linear(y, torch.randn(2, WIDTH), a, b, 1.0, SIZES)
    assert not y.any()


@pytest.mark.parametrize(("width", "rank", "size"), [(24, RANK, 16), (WIDTH, 4, 16), (WIDTH, RANK, 6)])
def test_shapes_that_the_loops_do_not_take_are_computed_all_the_same(width: int, rank: int, size: int) -> None:
    slots, x = [0, 0, -1, 2], torch.randn(4, width)
    a, b = (torch.randn(SLOTS, 1, rank, width),), (torch.randn(SLOTS, 1, size, rank),)
    assert not cpu_lora_rows.takes([cpu_lora_rows.Slice(a[0], b[0], 0)])
    y = torch.zeros(4, size)
    wrapper(slots).add_lora_linear(y, x, a, b, 1.0, (size,))
    torch.testing.assert_close(y.double(), expected(torch.zeros(4, size), x, a, b, slots), rtol=1e-4, atol=1e-4)


def test_a_rows_result_does_not_depend_on_how_many_threads_there_are() -> None:
    slots, x = [0, 0, 1, -1, 2, 2, 2, 2, 2], torch.randn(9, WIDTH)
    a, b = weights([[RANK, 3, 11, 0]] * 3, torch.float32)
    made = []
    for threads in (1, 2, 5):
        y = torch.zeros(9, sum(SIZES))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu_lora_rows, "SHARED_BYTES", 0)
            with in_threads(threads):
                wrapper(slots).add_lora_linear(y, x, a, b, 1.0, SIZES)
        made.append(y)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    """To the nearest, to the even one of two; infinite stays infinite and no number none."""
    a, b, x = (torch.zeros(shape, dtype=torch.bfloat16) for shape in ((1, 1, 8, 16), (1, 1, 4, 8), (1, 16)))
    a[0, 0, 0, 0], b[0, 0, :, 0], x[0, 0] = 1.0, 1.0, 1.0
    module = cpu_lora_rows.Module([cpu_lora_rows.Slice(a, b, 0)], [[1]])
    for value in (1.0, 1.00390625, 1.01171875, -3.3, 3.39e38, torch.inf, torch.nan, 1e-40):
        infinite = value == torch.inf
        y = torch.full((1, 4), value if infinite else 0.0, dtype=torch.bfloat16)
        # As what scales the sum, for only it is wider than bfloat16.
        module.add(x, y, cpu_lora_rows.StepRows([0], [0, 1], [0]), 1.0 if infinite else value)
        want = torch.tensor([[value] * 4]).bfloat16()
        torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("told", ["with ranks", "without", "not"])
@settings(max_examples=30)
@given(writings=st.lists(st.tuples(st.integers(0, SLOTS - 1), st.sampled_from((0, 1, 3, RANK))), max_size=8))
def test_a_slot_written_anew_is_read_anew(told: str, writings: list[tuple[int, int]]) -> None:
    """What was packed of the adapter that had the slot before must not answer for the next one, nor its rank."""
    slots, x = [*range(SLOTS), -1], torch.randn(SLOTS + 1, WIDTH)
    a, b = weights([[0, RANK, 0, 3]] * 3, torch.float32)
    step = wrapper(slots)
    step.add_lora_linear(torch.zeros(len(slots), sum(SIZES)), x, a, b, 1.0, SIZES)
    for number, (slot, rank) in enumerate(writings):
        if told != "not":
            step.slot_written(slot, {two.data_ptr(): rank for two in b} if told == "with ranks" else {})
        for one, two in zip(a, b, strict=True):
            one[slot], two[slot] = 0, 0
            one[slot, 0, :rank] = torch.randn(rank, WIDTH)
            two[slot, 0, :, :rank] = torch.randn(two.shape[2], rank)
        if number % 2:  # two slots may be written between two steps
            y = torch.zeros(len(slots), sum(SIZES))
            step.add_lora_linear(y, x, a, b, 1.0, SIZES)
            torch.testing.assert_close(y.double(), expected(torch.zeros_like(y), x, a, b, slots), rtol=1e-4, atol=1e-4)


def test_the_ranks_that_are_told_are_those_that_would_be_found() -> None:
    """Of slices that the adapter changes, in packed modules too, and of those that it does not."""

    def slots(out: int) -> torch.Tensor:
        return torch.zeros(SLOTS, 1, out, RANK)

    stacked = {
        "qkv": (slots(6), slots(4), slots(4)),
        "o": (slots(5),),
        "down": (slots(3),),
        "odd": (slots(2), slots(2)),
    }
    embed, head = slots(9), slots(7)
    weights = {
        "qkv": SimpleNamespace(lora_b=[torch.randn(6, 3), None, torch.randn(4, 2)]),
        "o": SimpleNamespace(lora_b=torch.randn(5, RANK)),
        "odd": SimpleNamespace(lora_b=torch.randn(4, 1)),
        "head": SimpleNamespace(lora_b=torch.randn(7, 2)),
    }
    manager = SimpleNamespace(
        modules={name: SimpleNamespace(lora_b_stacked=found) for name, found in stacked.items()}
        | {name: SimpleNamespace(lora_b_stacked=one) for name, one in (("embed", embed), ("head", head))}
        | {"experts": SimpleNamespace(lora_b_stacked=[slots(2)])},
        _registered_adapters={7: SimpleNamespace(get_lora=weights.get)},
    )
    told = grouped_punica.ranks_of(manager, 7)
    for name in ("qkv", "o"):
        parts = weights[name].lora_b if name == "qkv" else [weights[name].lora_b]
        for b, part in zip(stacked[name], parts, strict=True):
            if part is not None:
                b[2, 0, :, : part.shape[1]] = part
    want = {b.data_ptr(): grouped_punica._ranks(b)[2] for name in ("qkv", "o", "down") for b in stacked[name]}
    want |= {embed.data_ptr(): 0, head.data_ptr(): 2}
    assert told == want, "one that vLLM splits by itself (odd) is left to be looked for"


def test_embeddings_and_output_are_changed_by_the_adapters_that_have_something_for_them() -> None:
    slots = [0, 1, -1, 1, 2]
    step = wrapper(slots)
    a, b = torch.randn(SLOTS, 1, RANK, WIDTH), torch.randn(SLOTS, 1, 16, RANK)
    a[1], b[1] = 0, 0
    step.slot_written(0, {b.data_ptr(): RANK})
    step.slot_written(1, {b.data_ptr(): 0})  # nobody told of the third: it is multiplied, as it might have something
    looked_up, x = torch.randn(5, RANK), torch.randn(5, WIDTH)
    embedded, logits = torch.zeros(5, 16), torch.zeros(5, 16)
    step.add_lora_embedding(embedded, looked_up, b)
    step.add_lora_logits(logits, x, a, b, 1.0)
    for row, slot in enumerate(slots):
        for made, inner in ((embedded[row], looked_up[row]), (logits[row], x[row] @ a[slot, 0].T)):
            torch.testing.assert_close(made, inner @ b[slot, 0].T if slot in (0, 2) else torch.zeros(16))


@pytest.mark.parametrize("side", ["a", "b"])
def test_an_adapter_that_overflows_spoils_nobody_elses_rows(side: str) -> None:
    """Its weights are its tenant's to choose: what they make infinite must not reach another tenant's row, nor the base's."""
    slots, x = [0, 1, -1, 1], torch.full((4, WIDTH), 100.0)
    a, b = weights([[RANK, RANK, 0, 0]] * 3, torch.float32)
    for one in a if side == "a" else b:
        one[0] = torch.finfo(torch.float32).max if side == "a" else torch.inf  # x A overflows; B did when it was scaled
    want = expected(torch.zeros(4, sum(SIZES)), x, a, b, [-1, 1, -1, 1])
    y = torch.zeros(4, sum(SIZES))
    wrapper(slots).add_lora_linear(y, x, a, b, 1.0, SIZES)
    torch.testing.assert_close(y[1:].double(), want[1:], rtol=1e-3, atol=1e-2)
    assert not y[0].isfinite().any()
