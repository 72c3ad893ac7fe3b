"""A linear layer on a CPU in the calls that it takes: one product, and the adapters' part where the step has any.

vLLM goes through the wrapper's, the layer's and its quantization method's ways of being something else (sharded, quantized, on another
stream), a dozen calls of Python. In a step of few rows that costs as much as the product: 74 us instead of 45 for q, k and v of the shipped
backbone, in each of 24 layers (docs/decisions/0010-what-a-step-takes-on-cpus.md).

Between two of them a step can be left, too (`step_under_way`): a decoder layer has four, and asked only at its attention a small model
goes on for 2 to 4 ms.

Owns which layers have a short way, and the way. The product is vLLM's (`cpu_steps` says with how many rows), the adapters' part
`grouped_punica`'s.
"""

from collections.abc import Callable
from typing import Any

import torch

from serving_service.vllm_plugin.step_under_way import under_way

Forward = Callable[[torch.Tensor], Any]


def shorten(model: torch.nn.Module, asking: tuple[str, ...] = ()) -> int:
    """Gives the short way to each layer that is a whole matrix and nothing else; the others keep theirs.

    Args:
        model: loaded, and with its wrappers for LoRA if it has any.
        asking: what the names of those begin with before which a step can be left.

    Returns:
        How many layers have it.
    """
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA

    wrappers = {id(module): module for module in model.modules() if isinstance(module, BaseLinearLayerWithLoRA)}
    wrapped = {id(wrapper.base_layer) for wrapper in wrappers.values()}
    shortened = 0
    for name, module in model.named_modules():
        if id(module) in wrapped:
            continue
        way = _adapted(module) if id(module) in wrappers else _product(module)
        if way is not None:
            module.forward = _asks(way) if asking and name.startswith(asking) else way
            shortened += 1
    return shortened


def _asks(way: Forward) -> Forward:
    def forward(x: torch.Tensor) -> Any:
        under_way.ask()
        return way(x)

    return forward


def _adapted(wrapper: Any) -> Forward | None:
    """The way of a layer that adapters may change."""
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.layers.column_parallel_linear import (
        ColumnParallelLinearWithLoRA,
        MergedColumnParallelLinearWithLoRA,
    )
    from vllm.lora.layers.row_parallel_linear import RowParallelLinearWithLoRA

    from serving_service.vllm_plugin.grouped_punica import GroupedPunicaCPU

    forwards = (ColumnParallelLinearWithLoRA.forward, RowParallelLinearWithLoRA.forward)
    applies = (BaseLinearLayerWithLoRA.apply, MergedColumnParallelLinearWithLoRA.apply)
    product = _product(wrapper.base_layer)
    punica = wrapper.punica_wrapper
    if (
        product is None
        or type(wrapper).forward not in forwards
        or type(wrapper).apply not in applies
        or wrapper._enable_aux_cuda_stream
        or not isinstance(punica, GroupedPunicaCPU)
    ):
        return None
    usual = type(wrapper).forward.__get__(wrapper)
    a, b, sizes = wrapper.lora_a_stacked, wrapper.lora_b_stacked, wrapper.output_slices
    alone = not wrapper.base_layer.return_bias

    def forward(x: torch.Tensor) -> Any:
        if x.ndim != 2:
            return usual(x)
        made = product(x)
        if punica.adapters:
            punica.add_lora_linear(made if alone else made[0], x, a, b, 1.0, sizes)
        return made

    return forward


def _product(layer: Any) -> Forward | None:
    """The way of a layer of vLLM's; None for one that is more than a product, or less than a whole one."""
    from vllm.model_executor.layers.linear import (
        ColumnParallelLinear,
        LinearBase,
        ReplicatedLinear,
        RowParallelLinear,
        UnquantizedLinearMethod,
    )

    forwards = (ColumnParallelLinear.forward, ReplicatedLinear.forward, RowParallelLinear.forward)
    if (
        not isinstance(layer, LinearBase)
        or type(layer).forward not in forwards
        or type(layer.quant_method) is not UnquantizedLinearMethod
        or "cpu_linear" not in vars(layer)
        or layer.tp_size != 1
        or layer.skip_bias_add
        or not getattr(layer, "input_is_parallel", True)
    ):
        return None
    usual = type(layer).forward.__get__(layer)
    # Looked up with each call: weights may be laid elsewhere later (`shared_weights`).
    held, parameters, alone = vars(layer), layer._parameters, not layer.return_bias

    def forward(x: torch.Tensor) -> Any:
        if x.ndim != 2:
            return usual(x)
        made = held["cpu_linear"](x, parameters["weight"], parameters.get("bias"))
        return made if alone else (made, None)

    return forward
