"""LoRA on a GPU: vLLM's wrapper with the arithmetic of linear modules replaced by `dense_lora`'s.

Owns what a step needs to know: which row has which slot. Does not own when an adapter enters a slot. Installed by `worker`,
which vLLM imports in the worker's process; `tests/gpu` and the assumptions' test look at what it relies on.

Besides being quicker it asks the device nothing: vLLM sorts and counts a step's slots on the GPU and waits for the answer
four times before each step whose rows have changed. Its preparation is left out while no adapter in a slot has anything for
the modules that its own kernels compute (embeddings, output): 1.5 of the 8 ms of a step that brings a prompt.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU
from vllm.utils.torch_utils import direct_register_custom_op

from serving_service.vllm_plugin.dense_expand import MOST_ROWS, Tiles, cut, expand
from serving_service.vllm_plugin.dense_joined import base_weight, join
from serving_service.vllm_plugin.dense_lora import Slots, rehouse

_HOUSED: dict[int, tuple[Slots, Tiles, "DensePunicaGPU"]] = {}
"""By the address of a module's first A. The operator below is opaque to torch.compile and may take only tensors."""


class DensePunicaGPU(PunicaWrapperGPU):  # type: ignore[misc]  # vLLM is not typed
    """One for all modules of the language model."""

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        self.stock_wanted: Callable[[], bool] = lambda: False
        """Whether an adapter in a slot has something for a module of vLLM's own kernels, which want their own preparation."""
        self._stock_idle = False
        """Whether those kernels have been told that no row has an adapter."""
        self._slot_numbers = torch.arange(self.max_loras, dtype=torch.int32, device=device)
        self._order = torch.zeros(2, max_num_batched_tokens, dtype=torch.int32, device=device)
        """Rows by slot, and the slot at each of these places."""
        self._others = torch.ones(max_num_batched_tokens, self.max_loras, dtype=torch.bool, device=device)
        self._used = 0

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Runs before a step whose rows or slots differ from the last one's."""
        if self.stock_wanted():
            super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
            self._stock_idle = False
        elif not self._stock_idle:
            self._leave_out_stock()
        slot_of = {lora_id: slot for slot, lora_id in enumerate(lora_index_to_id) if lora_id is not None}
        ids = np.asarray(mapping.index_mapping, dtype=np.int64)
        known, where = np.unique(ids, return_inverse=True)
        slots = np.array([slot_of[one] if one > 0 else -1 for one in known.tolist()], dtype=np.int32)[where]
        self._used = int(slots.max(initial=-1)) + 1
        # Also before a step of the base only: vLLM may replay a CUDA graph with LoRA for it (`cudagraph_specialize_lora` off), and
        # what stood here before would answer through another tenant's adapter. And a graph computes more rows than a step has.
        self._order[1].fill_(-1)
        self._others.fill_(True)
        if self._used:
            order = np.argsort(slots, kind="stable").astype(np.int32)
            told = np.stack([order, slots[order], slots])
            # Pinned memory of its own for each step: the copy may still be under way when the next step is prepared.
            step = torch.from_numpy(told).pin_memory().to(self.device, non_blocking=True)
            self._order[:, : len(ids)] = step[:2]
            torch.ne(step[2, :, None], self._slot_numbers, out=self._others[: len(ids)])

    def _leave_out_stock(self) -> None:
        """Tells vLLM's kernels that no row has an adapter. Graphs with LoRA are replayed in this state, so whatever any of them reads
        must say so: those of experts read a row's slot, which vLLM leaves as the last step had it."""
        for meta in (self.token_mapping_meta, self.prompt_mapping_meta):
            meta._reset()
            meta.no_lora_flag_cpu.fill_(True)
            meta.token_lora_mapping.fill_(-1)
        self._embeddings_indices.zero_()  # where embeddings are read before their product is left out
        self._stock_idle = True

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """As `Slots.add`; shapes as vLLM's."""
        torch.ops.vllm.graft_dense_lora(y, x, lora_a_stacked[0])

    def wants_inner(self, rows: int) -> bool:
        """Whether a step of so many rows needs each row's product with every slot's A."""
        return self._used > 0 and rows <= MOST_ROWS

    def add(
        self, slots: Slots, tiles: Tiles, y: torch.Tensor, x: torch.Tensor, inner: torch.Tensor | None = None
    ) -> None:
        """Adds a module's LoRA to `y`; nothing where no row has an adapter. `inner` is the product with A, if there is one."""
        if self.wants_inner(len(x)):
            expand(y, x @ slots.a.T if inner is None else inner, self._order[0], self._order[1], slots, tiles)
        elif self._used:
            # What a CUDA graph is made of is replayed for steps whose adapters are in any slots.
            used = slots.count if torch.cuda.is_current_stream_capturing() else self._used
            slots.add(y, x, self._others[: x.shape[0]], used)


def _dense_lora(y: torch.Tensor, x: torch.Tensor, a: torch.Tensor) -> None:
    slots, tiles, wrapper = _HOUSED[a.data_ptr()]
    wrapper.add(slots, tiles, y, x)


def _no_lora(y: torch.Tensor, x: torch.Tensor, a: torch.Tensor) -> None:
    return None


direct_register_custom_op(op_name="graft_dense_lora", op_func=_dense_lora, mutates_args=["y"], fake_impl=_no_lora)


def house(manager: Any) -> None:
    """Rehouses the slots of a manager's linear modules; what is not linear stays with vLLM's kernels.

    Must run before anything is compiled or captured, for the slots' addresses change.
    """
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA

    wanted = manager.lora_config.target_modules
    others = [name for name, module in manager.modules.items() if not isinstance(module, BaseLinearLayerWithLoRA)]
    for wrapper in {module.punica_wrapper for module in manager.modules.values()}:
        wrapper.stock_wanted = partial(_any_has, manager, others)
    for name, module in manager.modules.items():
        wrapper = module.punica_wrapper
        if name in others:
            continue
        children = manager.packed_modules.get(name, [name])
        touched = [_named(child, name, wanted) for child in children] if len(children) == module.n_slices else []
        weight = base_weight(module)
        slots, module.lora_a_stacked, module.lora_b_stacked = rehouse(
            module.lora_a_stacked, module.lora_b_stacked, touched or [True] * module.n_slices, weight
        )
        tiles = cut(slots)
        _HOUSED[module.lora_a_stacked[0].data_ptr()] = (slots, tiles, wrapper)
        if weight is not None:
            join(module, slots, partial(wrapper.add, slots, tiles), wrapper.wants_inner)


def _any_has(manager: Any, names: list[str]) -> bool:
    """Whether an adapter in a slot has something for one of these modules."""
    held = manager._registered_adapters.cache  # by itself, a lookup counts as a use
    for lora_id in manager.lora_index_to_id if names else ():
        if lora_id is None:
            continue
        lora = held[lora_id]
        # Looked up once: it does not change, and models of experts have thousands of such modules.
        if not hasattr(lora, "graft_has"):
            lora.graft_has = any(manager._get_lora_layer_weights(lora, name) for name in names)
        if lora.graft_has:
            return True
    return False


def _named(child: str, packed: str, wanted: list[str] | None) -> bool:
    """Whether adapters may have something for `child`, by itself or as a part of `packed`."""
    return wanted is None or any(name in wanted or name.rpartition(".")[2] in wanted for name in (child, packed))
