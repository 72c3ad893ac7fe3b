"""Attention over packed rows: every row sees itself, and none sees another.

Registered with transformers as an attention of its own, so that it serves every architecture that goes through that
interface; calls without packed rows (generation, say) get transformers' usual `sdpa`. On a GPU one FlashAttention call
takes all rows (torch's `varlen_attn`); elsewhere, and where that call does not fit, each row gets its own causal
`scaled_dot_product_attention`. Owns no decision whether a backbone may be packed (`decoder`).
"""

from inspect import signature
from typing import Any

import torch
from torch.nn import functional as F

NAME = "graft_packed_rows"
"""Under which transformers knows it."""

UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""What some families add to the scores; packing such a backbone would silently leave it out."""


class NotPackable(Exception):
    """This backbone's attention needs what packed rows do not offer."""


def register() -> None:
    """Makes NAME known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*, attention_mask: torch.Tensor | None = None, **others: Any) -> torch.Tensor | None:
    """Builds `sdpa`'s mask where a caller masks tokens; the borders of packed rows follow from their lengths alone."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None:
        return None
    mask: torch.Tensor | None = sdpa_mask(attention_mask=attention_mask, **others)
    return mask


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    row_lengths: tuple[int, ...] | None = None,
    row_starts: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attends within rows.

    Args:
        module: the attention layer.
        query: [1, heads, tokens, size]; key and value may have fewer heads.
        key: see query.
        value: see query.
        attention_mask: None for packed rows.
        scaling: of the scores; None: 1 / sqrt(size).
        dropout: of the attention weights, while training.
        sliding_window: tokens that a token sees, itself included; None: its whole row.
        row_lengths: of the rows, in order; they add up to `tokens`. None: the input is not packed.
        row_starts: int32 [rows + 1], cumulated lengths on the device.
        others: what the family passes besides.

    Returns:
        [1, tokens, heads, size], and no weights.

    Raises:
        NotPackable: the layer is not causal, or adds something to the scores.
    """
    if row_lengths is None:
        return _usual(module, query, key, value, attention_mask, scaling, dropout, sliding_window, others)
    asked = [name for name in UNSUPPORTED if others.get(name) is not None]
    if asked or attention_mask is not None or others.get("is_causal") is False:
        raise NotPackable(f"attention of {type(module).__name__} takes {asked or 'a mask of its own'}")
    longest = max(row_lengths)
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    if row_starts is not None and _flash_fits(value, dropout):
        return _varlen(query, key, value, row_starts, longest, window, scaling), None
    parts = zip(*(torch.split(tensor, list(row_lengths), dim=2) for tensor in (query, key, value)), strict=True)
    rows = [_row(q, k, v, window, scaling, dropout).transpose(1, 2) for q, k, v in parts]
    return torch.cat(rows, dim=1), None


def _usual(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
    window: int | None,
    others: dict[str, Any],
) -> tuple[torch.Tensor, None]:
    """Rows side by side, [rows, heads, T, size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None and window is not None and window < query.shape[2]:
        # `_mask` has left it to us.
        return _row(query, key, value, window, scaling, dropout).transpose(1, 2).contiguous(), None
    out: torch.Tensor
    out, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
    )
    return out, None


def _row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Causal attention of one row, [1, heads, T, size]."""
    tokens = query.shape[2]
    band = None
    if window is not None and window < tokens:
        ones = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device)
        band = ones.tril() & ones.triu(1 - window)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=band,
        is_causal=band is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _flash_fits(value: torch.Tensor, dropout: float) -> bool:
    """FlashAttention takes 16-bit numbers, heads of at most 256, and here no dropout."""
    return value.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and value.shape[3] <= 256 and dropout == 0.0


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_starts: torch.Tensor,
    longest: int,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """All rows in one call, [1, heads, tokens, size] to [1, tokens, heads, size]."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor.transpose(1, 2).squeeze(0).to(value.dtype) for tensor in (query, key, value))
    # torch 2.11 has no such argument and takes fewer key heads without being told.
    gqa: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
    seen = (-1 if window is None else window - 1, 0)
    out: torch.Tensor = varlen_attn(
        q, k, v, row_starts, row_starts, longest, longest, scale=scaling, window_size=seen, **gqa
    )  # type: ignore[assignment]  # a pair comes only when the log-sum-exp is asked for
    return out.unsqueeze(0)
