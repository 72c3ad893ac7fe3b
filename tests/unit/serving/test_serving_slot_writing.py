"""A slot holds what vLLM would have written there, number for number, whatever it held before and whichever way it was written."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serving_service.vllm_plugin import staging
from serving_service.vllm_plugin.slot_packing import Packed, SlotPacking, free
from serving_service.vllm_plugin.slot_writing import SlotWriting
from tests.unit.serving.slots_world import RANK, SIZES, SLOTS, Slots

BOUNCE = 70  # numbers: an adapter takes several of these, and its tensors lie across them
RANKS = st.sampled_from((0, 1, 3, RANK))
ADAPTERS = st.fixed_dictionaries({name: st.tuples(*[RANKS] * len(sizes)) for name, sizes in SIZES.items()})
WRITES = st.lists(
    st.tuples(st.integers(0, SLOTS - 1), ADAPTERS, st.sampled_from(("", "", "words")), st.booleans()), max_size=8
)


def packing(slots: Slots) -> SlotPacking:
    with torch.inference_mode():  # as where vLLM warms up; the writes are a thread's, outside of it
        return SlotPacking(slots, torch.empty(BOUNCE), lambda: None)


@given(WRITES)
def test_only_the_difference_is_written_and_the_slot_is_as_if_all_were(writes: list[Any]) -> None:
    slots = Slots()
    writing = SlotWriting(slots)
    for slot, ranks, embed, _ in writes:
        lora = slots.adapter(ranks, embed)
        slots.expect(slot, lora)
        writing.write(slot, lora)
        slots.check()


@given(WRITES)
def test_an_adapter_in_one_piece_fills_a_slot_as_its_tensors_would(writes: list[Any]) -> None:
    slots = Slots()
    through = packing(slots)
    for slot, ranks, embed, pack in writes:
        lora = slots.adapter(ranks, embed)
        slots.expect(slot, lora)
        if pack:  # some come unpacked, as those that vLLM warms up with
            lora.graft_packed = through.pack(lora)
            assert (lora.graft_packed is None) == bool(embed or not lora.loras)
        through.write(slot, lora)
        slots.check()
        slots.expect(slot, lora)  # its tensors are views of the piece now, and say the same
        slots.check()


@pytest.mark.parametrize("pack", [False, True])
def test_a_slot_that_a_failed_write_left_half_full_is_written_whole(
    pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is left there of two tenants' adapters would count as known, and stay."""
    slots = Slots()
    writer = packing(slots) if pack else SlotWriting(slots)
    first, spoilt, second = (
        slots.adapter({"qkv": ranks, "o": (ranks[0],)}) for ranks in ((1, 1, 1), (RANK, RANK, RANK), (1, 1, 1))
    )
    for lora in (first, spoilt, second):
        if isinstance(writer, SlotPacking):
            lora.graft_packed = writer.pack(lora)
    writer.write(0, first)
    copy = torch._foreach_copy_

    def half(to: Any, of: Any) -> None:
        copy(to[:-1], of[:-1])
        raise RuntimeError("the device has no memory")

    monkeypatch.setattr(torch, "_foreach_copy_", half)
    with pytest.raises(RuntimeError, match="no memory"):
        writer.write(0, spoilt)
    monkeypatch.undo()
    writer.write(0, second)
    slots.expect(0, second)
    slots.check()


def test_what_does_not_fit_a_slot_is_vllms_to_refuse() -> None:
    """A tensor of one row would be spread over all of them, were it copied as it is."""
    slots = Slots()
    lora = slots.adapter({"o": (3,)})
    lora.loras["o"].lora_b = torch.randn(1, 3)
    slots.expect(1, lora)
    SlotWriting(slots).write(1, lora)
    slots.check()


def test_adapters_of_many_kinds_do_not_grow_what_is_kept_for_each() -> None:
    slots = Slots()
    through = packing(slots)
    for number in range(40):
        lora = slots.adapter({"qkv": (number % RANK + 1, number // RANK, 0), "o": (number % 3,)})
        lora.graft_packed = through.pack(lora)
        through.write(number % SLOTS, lora)
        slots.expect(number % SLOTS, lora)
        slots.check()
    assert len(through._to) <= 4 * SLOTS
    assert len(through._of) <= 4
    assert len(through._cleared) <= 4 * SLOTS


def test_memory_that_is_let_go_of_stays_for_who_else_has_a_view() -> None:
    whole = torch.arange(8.0)
    kept = whole[2:4]
    free(whole)
    assert whole.numel() == 0
    assert kept.tolist() == [2.0, 3.0]


def test_an_adapter_that_has_left_lets_go_of_its_piece() -> None:
    numbers = torch.zeros(6)
    lora: Any = SimpleNamespace(loras={"q": SimpleNamespace(lora_a=numbers[:3])}, graft_packed=Packed(numbers, ()))
    staging._free(lora)
    assert lora.loras == {}
    assert numbers.numel() == 0
    staging._free(SimpleNamespace(loras={}))  # one that could not be put into a piece
