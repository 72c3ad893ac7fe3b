"""vLLM's own LoRA kernels are prepared for a step whenever an adapter in a slot needs them, and told of no adapter otherwise."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm.config.lora import LoRAConfig
from vllm.lora.layers import LoRAMapping
from vllm.lora.model_manager import AdapterLRUCache
from vllm.lora.punica_wrapper import punica_gpu

from serving_service.vllm_plugin.dense_punica import DensePunicaGPU, _any_has

SLOTS, ROWS = 3, 8
SLOTS_HELD = st.lists(
    st.none() | st.integers(1, 6), min_size=SLOTS, max_size=SLOTS, unique_by=lambda one: one or object()
)


@pytest.fixture
def wrappers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes vLLM's wrapper and ours, without a GPU; vLLM leaves its books out where it finds no Triton."""
    books = Path(punica_gpu.__file__).parents[1] / "ops" / "triton_ops" / "lora_kernel_metadata.py"
    spec = importlib.util.spec_from_file_location("lora_kernel_metadata", books)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(punica_gpu, "LoRAKernelMeta", module.LoRAKernelMeta, raising=False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    config = LoRAConfig(max_lora_rank=8, max_loras=SLOTS, max_cpu_loras=SLOTS)

    def make() -> tuple[Any, Any]:
        kinds = (punica_gpu.PunicaWrapperGPU, DensePunicaGPU)
        theirs, ours = (kind(ROWS, ROWS, "cpu", lora_config=config) for kind in kinds)
        return theirs, ours

    return make


def told(wrapper: Any) -> list[list[Any]]:
    """What the kernels read of a step."""
    return [
        [meta.no_lora_flag_cpu.tolist(), meta.active_lora_ids.tolist(), meta.num_tokens_per_lora.tolist()]
        for meta in (wrapper.token_mapping_meta, wrapper.prompt_mapping_meta)
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(SLOTS_HELD, st.lists(st.integers(0, 2), min_size=1, max_size=ROWS)), min_size=1),
    embedding=st.sets(st.integers(1, 6)),
)
def test_what_vllms_kernels_are_told_of_step_after_step(
    wrappers: Any, steps: list[tuple[list[int | None], list[int]]], embedding: set[int]
) -> None:
    theirs, ours = wrappers()
    held: list[int | None] = []
    ours.stock_wanted = lambda: any(one in embedding for one in held)
    for held, rows in steps:  # the wrapper asks of it
        ids = tuple(held[slot] or 0 for slot in rows)
        mapping = LoRAMapping(ids, ids, is_prefill=True)
        for wrapper in (theirs, ours):
            wrapper.update_metadata(mapping, held, SLOTS, 100)
        idle = not any(one in embedding for one in held)
        for meta in (ours.token_mapping_meta, ours.prompt_mapping_meta):
            assert not idle or set(meta.token_lora_mapping.tolist()) == {-1}, "kernels of experts read it in a graph"
        if not idle:
            assert told(ours) == told(theirs)
        else:
            assert told(ours) == 2 * [[[True], [-1] * (SLOTS + 1), [0] * (SLOTS + 1)]]
            # An embedding is read there, for every row of a graph, before its product is left out.
            assert not ours._embeddings_indices.any()


def test_an_adapter_is_asked_once_and_asking_does_not_count_as_use() -> None:
    asked = list[tuple[int, str]]()

    class Manager:
        lora_index_to_id = (1, None, 2)
        _registered_adapters = AdapterLRUCache[Any](4, lambda _: None)

        def _get_lora_layer_weights(self, lora: Any, name: str) -> object | None:
            asked.append((lora.id, name))
            return lora.loras.get(name)

    manager = Manager()
    for number, loras in ((1, {"q": "w"}), (2, {"q": "w", "embed": "w"}), (3, {"q": "w"})):
        manager._registered_adapters[number] = SimpleNamespace(id=number, loras=loras)
    order = list(manager._registered_adapters.order)
    assert _any_has(manager, ["embed", "head"])
    assert _any_has(manager, ["embed", "head"])
    assert asked == [(1, "embed"), (1, "head"), (2, "embed")]
    assert list(manager._registered_adapters.order) == order
    manager.lora_index_to_id = (1, None, None)  # type: ignore[misc]
    assert not _any_has(manager, ["embed", "head"])
    assert not _any_has(manager, [])
