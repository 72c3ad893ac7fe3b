"""A slot that is filled in parts ends up as one that was filled at once, and nothing is written into a slot that went to another."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_service.vllm_plugin.slot_filling import SlotFilling, give_slot


class _Active(dict[int, None]):
    """vLLM's cache of active adapters, as far as it is used here: who leaves it loses its slot."""

    def __init__(self, slots: list[int | None]) -> None:
        super().__init__()
        self.order, self._slots = self, slots

    def touch(self, lora_id: int) -> None:
        super().pop(lora_id)
        self[lora_id] = None

    def pop(self, lora_id: int) -> None:  # type: ignore[override]
        super().pop(lora_id)
        self._slots[self._slots.index(lora_id)] = None


class _Manager:
    """Slots and some modules, of which adapters have no weights for one."""

    def __init__(self, modules: int = 6, slots: int = 3) -> None:
        self.lora_index_to_id: list[int | None] = [None] * slots
        self._active_adapters = _Active(self.lora_index_to_id)
        self._registered_adapters = {lora_id: f"lora{lora_id}" for lora_id in (7, 8, 9)}
        self.written = Counter[tuple[str, int]]()
        self.held: dict[tuple[str, int], str] = {}
        self.activated: list[int] = []
        self.modules = {f"m{number}": self._module(f"m{number}") for number in range(modules)}

    def _module(self, name: str) -> Any:
        def write(slot: int, *what: str) -> None:
            self.written[name, slot] += 1
            self.held[name, slot] = " ".join(what)

        return SimpleNamespace(set_lora=write, reset_lora=write)

    def _get_lora_layer_weights(self, lora: str, name: str) -> Any:
        return None if name == "m2" else SimpleNamespace(lora_a=f"{lora}.{name}.a", lora_b=f"{lora}.{name}.b")

    def activate_adapter(self, lora_id: int) -> None:
        self.activated.append(lora_id)


def full(manager: _Manager, lora_id: int, slot: int) -> bool:
    wanted = {
        (name, slot): "" if name == "m2" else f"lora{lora_id}.{name}.a lora{lora_id}.{name}.b"
        for name in manager.modules
    }
    return {place: what for place, what in manager.held.items() if place[1] == slot} == wanted


def test_each_call_copies_a_part_until_the_slot_is_full() -> None:
    manager = _Manager()
    filling = SlotFilling(manager, 0.0, lambda: 0.0)
    filling.begin(7)
    assert manager.lora_index_to_id == [7, None, None]
    assert len(manager.written) == 1, "a module at least"
    calls = 1
    while filling.go_on(7):
        calls += 1
        assert filling.under_way == [7]
    assert calls == len(manager.modules) - 1
    assert full(manager, 7, 0)
    assert set(manager.written.values()) == {1}, "nothing twice"
    assert filling.under_way == []
    assert not filling.go_on(7)


def test_behind_a_long_step_a_part_is_longer() -> None:
    """A module takes 10 ms here."""
    manager = _Manager(modules=12)
    now = 0.0

    def clock() -> float:
        return now + 0.01 * sum(manager.written.values())

    filling = SlotFilling(manager, 0.001, clock)
    filling.begin(7)
    assert sum(manager.written.values()) == 1
    now += 0.1
    filling.go_on(7)
    assert sum(manager.written.values()) == 1 + 3


ACTS = st.lists(
    st.tuples(st.sampled_from(("go on", "finish", "lose", "forget", "begin")), st.sampled_from((7, 8, 9))), max_size=40
)


@given(ACTS)
def test_a_slot_is_full_before_a_step_uses_it_and_belongs_to_one(acts: list[tuple[str, int]]) -> None:
    manager = _Manager()
    filling = SlotFilling(manager, 0.0, lambda: 0.0)
    for do, lora_id in acts:
        active = lora_id in manager._active_adapters
        before = dict(manager.written)
        match do:
            case "begin" if not active:
                filling.begin(lora_id)
                assert lora_id in filling.under_way
            case "go on":
                filling.go_on(lora_id)
            case "finish" if active:
                filling.finish([lora_id])
                assert full(manager, lora_id, manager.lora_index_to_id.index(lora_id))
            case "lose" if active:  # to whoever needs it in a step
                manager._active_adapters.pop(lora_id)
            case "forget" if active:
                filling.forget(lora_id)
                manager._active_adapters.pop(lora_id)
                assert not filling.go_on(lora_id)
        touched = {slot for (name, slot), times in manager.written.items() if times != before.get((name, slot))}
        assert touched <= {slot for slot, held in enumerate(manager.lora_index_to_id) if held == lora_id}
        assert len(touched) <= 1


def test_what_is_being_filled_is_not_what_was_used_longest_ago() -> None:
    manager = _Manager()
    filling = SlotFilling(manager, 0.0, lambda: 0.0)
    filling.begin(7)
    manager._active_adapters[8] = None
    filling.go_on(7)
    assert list(manager._active_adapters) == [8, 7]


def test_a_model_with_another_kind_of_module_is_left_to_vllm() -> None:
    manager = _Manager()
    manager.modules["head"] = SimpleNamespace(set_module_to_save=None)
    filling = SlotFilling(manager)
    filling.begin(7)
    assert manager.activated == [7]
    assert not filling.go_on(7)


def test_an_adapter_takes_no_slot_that_is_being_filled_or_in_use() -> None:
    manager = _Manager(slots=1)
    filling = SlotFilling(manager, 0.0, lambda: 0.0)
    give_slot(manager, 7, [], filling)
    assert not full(manager, 7, 0)
    give_slot(manager, 8, [], filling)
    assert manager.lora_index_to_id == [7], "it is being filled"
    while filling.go_on(7):
        pass
    assert full(manager, 7, 0)
    give_slot(manager, 8, [7], filling)
    assert manager.lora_index_to_id == [7], "it is in use"
    give_slot(manager, 8, [], filling)
    assert manager.lora_index_to_id == [8]


def test_without_parts_vllm_copies_the_whole_adapter() -> None:
    manager = _Manager(slots=1)
    give_slot(manager, 7, [], None)
    assert manager.activated == [7]


def test_a_slot_whose_filling_failed_is_free_once_its_adapter_is_dropped() -> None:
    manager = _Manager(slots=1)
    filling = SlotFilling(manager, 0.0, lambda: 0.0)
    filling.begin(7)
    for module in manager.modules.values():
        module.set_lora = None
    with pytest.raises(TypeError):
        filling.go_on(7)
    filling.forget(7)
    manager._active_adapters.pop(7)
    assert manager.lora_index_to_id == [None]
    assert not filling.go_on(7)
    assert filling.under_way == []
