"""The product of a step's rows with all slots' A as more columns of the base's own product, for q, k and v of a layer.

The slots' A lie in memory where the base's weight ends, so one kernel of the vendor's reads both. By itself the product with
A is small: it took 6 us a layer (8 slots of rank 16, 256 rows, an 8B llama on an H200), most of it starting and waiting,
where as 256 more of 6,400 columns it is in the same wave of the kernel's blocks. Owns that layout and vLLM's layer that uses
it. Does not own what is done with the product (`dense_punica`).

Only q, k and v: what comes out has the slots' columns behind each row, and vLLM cuts these modules' output into views,
which its kernels take as they come, while others want rows without gaps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from vllm import envs
from vllm.lora.layers.column_parallel_linear import MergedQKVParallelLinearWithLoRA
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.utils.torch_utils import direct_register_custom_op

from serving_service.vllm_plugin.dense_lora import Slots


@dataclass(frozen=True, slots=True)
class _Joined:
    add: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], None]
    wants_inner: Callable[[int], bool]


_JOINED: dict[int, _Joined] = {}
"""By the address of a joined weight. The operator below is opaque to torch.compile and may take only tensors and numbers."""


def base_weight(module: Any) -> torch.Tensor | None:
    """Returns (out, in) of a LoRA layer's base if its product can have the slots' columns too, else None."""
    # Batch-invariant products are vLLM's own kernels, which promise that nothing beside a row changes it.
    if type(module) is not MergedQKVParallelLinearWithLoRA or envs.VLLM_BATCH_INVARIANT:
        return None
    base = module.base_layer
    plain = type(base.quant_method) is UnquantizedLinearMethod and base.weight.dtype == module.lora_a_stacked[0].dtype
    whole = plain and base.weight.is_contiguous() and len(base.weight) == sum(module.output_slices)
    return base.weight.data if whole else None


def join(
    module: Any,
    slots: Slots,
    add: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], None],
    wants_inner: Callable[[int], bool],
) -> None:
    """Makes a layer compute with the joined weight, whose first rows become the base's.

    Args:
        module: vLLM's layer.
        slots: rehoused behind `base_weight(module)`.
        add: (y, x, inner or None); adds the step's LoRA to y.
        wants_inner: whether a step of so many rows needs the product with A.
    """
    base = module.base_layer
    out, columns = base.weight.shape
    held = slots.a.shape[0]
    joined = slots.a.as_strided((out + held, columns), (columns, 1), slots.a.storage_offset() - out * columns)
    base.weight.data = joined[:out]
    module.graft_joined, module.graft_joined_bias = joined, None
    if base.bias is not None:
        module.graft_joined_bias = torch.cat([base.bias.data, base.bias.data.new_zeros(held)])
    _JOINED[joined.data_ptr()] = _Joined(add, wants_inner)


def _product(x: torch.Tensor, joined: torch.Tensor, bias: torch.Tensor | None, out: int) -> torch.Tensor:
    how = _JOINED[joined.data_ptr()]
    if how.wants_inner(len(x)):
        made = torch.nn.functional.linear(x, joined, bias)
        how.add(made[:, :out], x, made[:, out:])
        return made[:, :out]
    # The same distance between rows, which torch.compile has been told of; the columns behind each row stay unwritten.
    y = x.new_empty(len(x), len(joined))[:, :out]
    if bias is None:
        torch.mm(x, joined[:out].T, out=y)
    else:
        torch.addmm(bias[:out], x, joined[:out].T, out=y)
    how.add(y, x, None)
    return y


def _shape(x: torch.Tensor, joined: torch.Tensor, bias: torch.Tensor | None, out: int) -> torch.Tensor:
    return x.new_empty_strided((x.shape[0], out), (joined.shape[0], 1))


direct_register_custom_op(op_name="graft_joined_lora", op_func=_product, fake_impl=_shape)


def install() -> None:
    """Makes vLLM's layers of q, k and v use a joined weight where they have one."""
    stock = MergedQKVParallelLinearWithLoRA.apply

    def apply(self: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        joined = getattr(self, "graft_joined", None)
        if joined is None:
            made: torch.Tensor = stock(self, x, bias)
            return made
        rows = x.flatten(0, -2)
        y: torch.Tensor = torch.ops.vllm.graft_joined_lora(
            rows, joined, None if bias is None else self.graft_joined_bias, sum(self.output_slices)
        )
        return y if x.ndim == 2 else y.view(*x.shape[:-1], -1)

    MergedQKVParallelLinearWithLoRA.apply = apply
