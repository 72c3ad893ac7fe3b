"""A decoder layer's attention on a CPU by vLLM's two kernels, without what is the same in every step.

vLLM finds its way to the kernels through two operations of its own and takes the cache apart anew for each: in a step of one row three
quarters of the layer's time, in one of 16 rows 40 % (docs/decisions/0010-what-a-step-takes-on-cpus.md). Here a layer keeps the views of its
cache, and what only other backends and encoders need is left out. And a layer is where a step can be left (`step_under_way`): at its
attention, and at each matrix that lies beside it (`cpu_linears`).

Owns which layers have this way, and the way. The kernels, the cache and what a step tells them are vLLM's.
"""

import re
from collections.abc import Callable
from typing import Any

import torch

from serving_service.vllm_plugin.step_under_way import FIRST_LAYERS, under_way

_LAYER = re.compile(r".*\blayers\.\d+\.")


def shorten(model: torch.nn.Module) -> int:
    """Gives the short way to each decoder layer's attention that needs no more than the kernels; returns how many have it."""
    from vllm.model_executor.layers.attention import Attention

    # Exactly this class: what is derived from it (encoders, chunks) does more.
    layers = [module for module in model.modules() if type(module) is Attention and _is_plain(module)]
    for number, layer in enumerate(layers):
        layer.forward = _attend(layer, asks=number < FIRST_LAYERS * len(layers))
    return len(layers)


def first_layers(model: torch.nn.Module) -> tuple[str, ...]:
    """Returns what the names of the modules of those decoder layers begin with that a step can be left in; none where it is more than a row
    of layers with an attention each."""
    from vllm.model_executor.layers.attention import Attention

    names = [name for name, module in model.named_modules() if type(module) is Attention]
    layers = [match[0] for name in names if (match := _LAYER.match(name))]
    if len(layers) != len(names) or len(set(layers)) != len(names):
        return ()
    return tuple(name for number, name in enumerate(layers) if number < FIRST_LAYERS * len(layers))


def is_all(model: torch.nn.Module, layers: int) -> bool:
    """Whether so many layers are all that keep something from step to step."""
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    return layers == sum(isinstance(module, AttentionLayerBase) for module in model.modules()) > 0


def _is_plain(layer: Any) -> bool:
    from vllm.v1.attention.backend import AttentionType
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    return (
        type(layer.impl) is CPUAttentionBackendImpl
        and layer.attn_type == AttentionType.DECODER
        and layer.kv_sharing_target_layer_name is None
        and layer.query_quant is None
        and layer.impl.sinks is None
        and layer.head_size == layer.head_size_v
    )


def _attend(layer: Any, *, asks: bool) -> Callable[..., torch.Tensor]:
    from vllm.distributed.kv_transfer import has_kv_transfer_group
    from vllm.forward_context import get_forward_context

    usual, impl, name = type(layer).forward.__get__(layer), layer.impl, layer.layer_name
    heads, held_heads, size = layer.num_heads, layer.num_kv_heads, layer.head_size
    write = torch.ops._C.cpu_attn_reshape_and_cache.default
    attend = torch.ops._C.cpu_attention_with_kv_cache.default
    cache: torch.Tensor | None = None
    parts: tuple[torch.Tensor, ...] = ()

    def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        nonlocal cache, parts
        if asks:
            under_way.ask()
        context = get_forward_context()
        step = context.attn_metadata.get(name) if isinstance(context.attn_metadata, dict) else None
        slots = context.slot_mapping.get(name) if isinstance(context.slot_mapping, dict) else None
        if step is None or slots is None or more or named or query.ndim != 2 or step.num_actual_tokens != len(query):
            made: torch.Tensor = usual(query, key, value, *more, **named)
            return made
        if cache is not layer.kv_cache:
            cache = layer.kv_cache
            blocks, of_heads, tokens, _ = cache.shape
            parts = cache.view(blocks, of_heads, 2 * tokens, -1).chunk(2, dim=2)
        keys, values = parts
        kind, scale_k, scale_v = impl.kv_cache_dtype, layer._k_scale_float, layer._v_scale_float
        made = torch.empty_like(query, memory_format=torch.contiguous_format)
        key, value = key.view(-1, held_heads, size), value.view(-1, held_heads, size)
        write(key, value, keys, values, slots, layer.isa, scale_k, scale_v, kind)
        attend(
            query.view(-1, heads, size),
            keys,
            values,
            made.view(-1, heads, size),
            step.query_start_loc,
            step.seq_lens,
            impl.scale,
            step.causal,
            impl.alibi_slopes,
            impl.sliding_window,
            step.block_table,
            impl.logits_soft_cap,
            step.scheduler_metadata,
            None,
            step.dynamic_causal,
            scale_k,
            scale_v,
            kind,
        )
        return made

    return usual if has_kv_transfer_group() else forward
