"""A slot that is filled beside the steps is full before a step uses it, and nothing is written into one that went to another."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_service.vllm_plugin.slot_filling import SlotFilling, give_slot


class _Active(dict[int, None]):
    """vLLM's cache of active adapters, as far as it is used here: who leaves it loses its slot."""

    def __init__(self, slots: list[int | None]) -> None:
        super().__init__()
        self.order, self._slots = self, slots

    def pop(self, lora_id: int) -> None:  # type: ignore[override]
        super().pop(lora_id)
        self._slots[self._slots.index(lora_id)] = None


class _Manager:
    """Slots and registered adapters."""

    def __init__(self, slots: int = 3) -> None:
        self.lora_index_to_id: list[int | None] = [None] * slots
        self._active_adapters = _Active(self.lora_index_to_id)
        self._registered_adapters = {7: 7, 8: 8, 9: 9}
        self.modules: dict[str, SimpleNamespace] = {"m": SimpleNamespace()}
        self.activated: list[int] = []

    def activate_adapter(self, lora_id: int) -> None:
        self.activated.append(lora_id)


class _Writer:
    """Keeps who was written where, an adapter being its id here; a write takes until `go` is set."""

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.marks = 0
        self.writing, self.at_once = 0, 0
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def pack(self, lora: SimpleNamespace) -> None:
        return None

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def write(self, slot: int, lora: int, behind: int) -> None:
        assert 0 < behind <= self.marks
        self.writing += 1
        self.at_once = max(self.at_once, self.writing)
        self.begun.set()
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        self.writing -= 1
        self.writes.append((slot, lora))
        self.slots[slot] = lora


def filling(slots: int = 3) -> tuple[_Manager, _Writer, SlotFilling]:
    manager, writer = _Manager(slots), _Writer()
    return manager, writer, SlotFilling(manager, writer)


def takes(made: SlotFilling, manager: _Manager, lora_ids: Iterable[int], new: int | None = None) -> None:
    """A step: those that have a slot use it, and `new` takes the slot used longest ago."""
    made.finish([*lora_ids, *([new] if new else [])])
    if new is not None:
        if None not in manager.lora_index_to_id:
            manager._active_adapters.pop(next(iter(manager._active_adapters)))
        slot = manager.lora_index_to_id.index(None)
        manager._active_adapters[new], manager.lora_index_to_id[slot] = None, new
        made.write(slot, new)


@contextmanager
def being_written(writer: _Writer, made: SlotFilling, lora_id: int) -> Iterator[None]:
    """Covers a time in which a thread is at an adapter's slot; ends when it is done."""
    made.begin(lora_id)
    writer.begun.clear()
    writer.go.clear()
    thread = threading.Thread(target=made.fill, args=(lora_id,))
    thread.start()
    assert writer.begun.wait(30)
    yield
    assert thread.is_alive()
    writer.go.set()
    thread.join(30)


def test_the_loop_gives_the_slot_and_a_thread_writes_it_once() -> None:
    manager, writer, made = filling()
    made.begin(7)
    assert (manager.lora_index_to_id, made.under_way, writer.writes) == ([7, None, None], [7], [])
    thread = threading.Thread(target=made.fill, args=(7,))
    thread.start()
    thread.join(30)
    assert (made.under_way, writer.writes) == ([], [(0, 7)])
    assert not made.fill(7)
    assert writer.writes == [(0, 7)], "nothing twice"


@pytest.mark.parametrize(("has", "new"), [([7], None), ([], 8)])
def test_a_step_that_uses_or_takes_the_slot_is_behind_whoever_writes_it(has: list[int], new: int | None) -> None:
    """The slot can be taken meanwhile, if its adapter has not been used for longest; what the step needs is written last."""
    manager, writer, made = filling(slots=1)
    with being_written(writer, made, 7):
        step = threading.Thread(target=takes, args=(made, manager, has, new))
        step.start()
        step.join(0.2)
        assert step.is_alive()
    step.join(30)
    assert writer.writes == [(0, 7), *([(0, new)] if new else [])]
    assert writer.at_once == 1
    assert manager.lora_index_to_id == [new or 7]


def test_steps_of_others_do_not_wait_for_a_slot_that_is_being_written() -> None:
    manager, writer, made = filling()
    made.begin(8)
    made.fill(8)
    with being_written(writer, made, 7):  # in this thread: these would wait for ever
        takes(made, manager, [8])
        made.forget(8)


ACTS = st.lists(
    st.tuples(st.sampled_from(("begin", "fill", "step", "lose", "forget", "take")), st.sampled_from((7, 8, 9))),
    max_size=40,
)


@given(ACTS)
def test_a_slot_is_full_before_a_step_uses_it_and_belongs_to_one(acts: list[tuple[str, int]]) -> None:
    manager, writer, made = filling(slots=2)
    for do, lora_id in acts:
        active = lora_id in manager._active_adapters
        before = len(writer.writes)
        match do:
            case "begin" if not active and None in manager.lora_index_to_id:
                made.begin(lora_id)
                assert lora_id in made.under_way
            case "fill":
                made.fill(lora_id)
                assert lora_id not in made.under_way
            case "step" if active:
                takes(made, manager, [lora_id])
                assert writer.slots[manager.lora_index_to_id.index(lora_id)] == lora_id
            case "take" if not active:
                takes(made, manager, [], lora_id)
                assert writer.slots[manager.lora_index_to_id.index(lora_id)] == lora_id
            case "lose" if active:  # to whoever needs it in a step
                manager._active_adapters.pop(lora_id)
            case "forget" if active:
                made.forget(lora_id)
                manager._active_adapters.pop(lora_id)
        for slot, written in writer.writes[before:]:
            assert manager.lora_index_to_id[slot] == written


def test_a_model_with_another_kind_of_module_is_left_to_vllm() -> None:
    manager, writer, made = filling()
    manager.modules["head"] = SimpleNamespace(set_module_to_save=None)
    made.begin(7)
    assert manager.activated == [7]
    made.fill(7)
    assert writer.writes == []


def test_an_adapter_takes_no_slot_that_is_being_filled_or_in_use() -> None:
    manager, writer, made = filling(slots=1)
    give_slot(manager, 7, [], made)
    give_slot(manager, 8, [], made)
    assert manager.lora_index_to_id == [7], "it is being filled"
    assert made.fill(7)
    give_slot(manager, 8, [7], made)
    assert manager.lora_index_to_id == [7], "it is in use"
    give_slot(manager, 8, [], made)
    assert manager.lora_index_to_id == [8]
    give_slot(manager, 8, [], made)
    assert manager.lora_index_to_id == [8], "it has one"
    give_slot(manager, 5, [], made)
    assert manager.lora_index_to_id == [8], "it has left the engine"
    assert writer.writes == [(0, 7)]


def test_where_the_loop_fills_slots_the_whole_adapter_is_activated() -> None:
    manager = _Manager(slots=1)
    give_slot(manager, 7, [], None)
    assert manager.activated == [7]


def test_a_slot_whose_filling_failed_is_written_again_before_a_step_uses_it() -> None:
    manager, writer, made = filling(slots=1)
    made.begin(7)
    writer.error = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        made.fill(7)
    writer.error = None
    takes(made, manager, [7])
    assert writer.writes == [(0, 7)]
    assert made.under_way == []


def test_a_slot_whose_filling_failed_is_free_once_its_adapter_is_dropped() -> None:
    manager, writer, made = filling(slots=1)
    made.begin(7)
    writer.error = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        made.fill(7)
    made.forget(7)
    manager._active_adapters.pop(7)
    assert made.under_way == []
    assert manager.lora_index_to_id == [None]
