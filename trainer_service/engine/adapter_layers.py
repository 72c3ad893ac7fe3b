"""What an adapted layer computes while it trains: W x + s B A drop(x), with a dropout that belongs to the token.

PEFT's own layers draw dropout from the process's generator, so the drawn mask depends on how a step is cut into passes, on
which device has which row, and on what ran before; and they keep the mask and the dropped input for the backward pass.
Here whether channel c of a token's input is dropped is a hash of (seed, step, row, place in the row, layer, c). The same
token loses the same channels however rows are packed, cut or dealt out to devices, when a layer is computed again under
checkpointing, and after a crash, with no generator to restore. The mask is made again in the backward pass, so only the
layer's input is kept, which the layers of one block share. On a CPU drawing it so takes an eighth of the generator's time,
which was a twentieth of a step.

Parameters, names and merging stay PEFT's.
"""

from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainer_service.engine.batches import Batch

ADAPTER = "default"
"""PEFT's name for the one adapter."""

_ROUND_1, _ROUND_2 = -4658895280553007687, -7723592293110705685
"""Multipliers of splitmix64 (Steele, Lea, Flood 2014), as signed numbers."""


class TokenDropout:
    """Decides what is dropped in the pass under way."""

    def __init__(self, probability: float, seed: int) -> None:
        """Drops nothing before `enter` was called.

        Args:
            probability: of an element to be dropped, 0 to below 1.
            seed: of the recipe.
        """
        self.probability = probability
        self._seed = seed
        self._tokens: torch.Tensor | None = None

    def enter(self, batch: Batch, step: int, device: torch.device) -> None:
        """Sets the tokens of the pass; they hold until the next call, for the backward pass too."""
        mixed = _mix(batch.places ^ _mix(torch.tensor((self._seed << 24) + step)))
        self._tokens = _odd(mixed).reshape(-1, 1).to(device, non_blocking=True)

    @property
    def scale(self) -> float:
        """What kept elements are to be multiplied by, so that the mean stays."""
        return 1 / (1 - self.probability)

    def apply(self, x: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        """Returns x [tokens, width] with zeros for what is dropped, not yet scaled; the same at every call in a pass.

        Args:
            x: of all tokens of the pass.
            channels: odd int32 [width], the layer's own.
        """
        if not self.probability:
            return x
        assert self._tokens is not None
        # The product of two random odd numbers is a random odd number; its upper bits decide.
        threshold = int(-(2**31) + self.probability * 2**32)
        return torch.where(self._tokens * channels >= threshold, x, 0.0)


class _LowRank(torch.autograd.Function):
    """base + scale * (drop(x) A^T) B^T, keeping x instead of what dropout made of it."""

    @staticmethod
    def forward(
        ctx: Any,
        base: torch.Tensor,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        dropout: TokenDropout,
        channels: torch.Tensor,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(base.dtype)
        low = dropout.apply(rows, channels) @ a.to(base.dtype).T
        ctx.save_for_backward(x, a, b, low, channels)
        ctx.scale, ctx.dropout = scale * dropout.scale, dropout
        flat = base.reshape(-1, base.shape[-1])
        return torch.addmm(flat, low, b.to(base.dtype).T, alpha=ctx.scale).view(base.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, low, channels = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_low = (flat @ b.to(flat.dtype)) * ctx.scale
        grad_b = (flat.T @ low) * ctx.scale
        rows = x.reshape(-1, x.shape[-1]).to(flat.dtype)
        grad_a = grad_low.T @ ctx.dropout.apply(rows, channels)
        grad_x = None
        if ctx.needs_input_grad[1]:  # the first layer's input is the frozen embedding's
            grad_x = ctx.dropout.apply(grad_low @ a.to(flat.dtype), channels).view(x.shape).to(x.dtype)
        return grad, grad_x, grad_a.to(a.dtype), grad_b.to(b.dtype), None, None, None


def take_over(model: Any, dropout: TokenDropout) -> None:
    """Gives every adapted linear layer of a PEFT model the forward pass of this file.

    Args:
        model: just made by `get_peft_model`.
        dropout: shared by all layers.
    """
    from peft.tuners.lora import LoraLayer

    for index, layer in enumerate(module for module in model.modules() if isinstance(module, LoraLayer)):
        if ADAPTER not in layer.lora_A or layer.lora_variant:
            continue  # an adapted embedding, or something PEFT computes in a way of its own
        width = layer.lora_A[ADAPTER].in_features
        keys = _odd(_mix(torch.arange(width) + (index << 32))).to(layer.lora_A[ADAPTER].weight.device)
        layer.forward = MethodType(_forward(layer.forward, dropout, keys), layer)


def _forward(usual: Any, dropout: TokenDropout, channels: torch.Tensor) -> Any:
    def forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if layer.disable_adapters or layer.merged or not layer.training:
            result: torch.Tensor = usual(x, *args, **kwargs)
            return result
        base = layer.base_layer(x, *args, **kwargs)
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        out: torch.Tensor = _LowRank.apply(base, x, a, b, layer.scaling[ADAPTER], dropout, channels)  # type: ignore[no-untyped-call]
        return out

    return forward


def _mix(numbers: torch.Tensor) -> torch.Tensor:
    """Returns int64 hashes of int64 numbers (splitmix64's finisher)."""
    numbers = (numbers ^ _shifted(numbers, 30)) * _ROUND_1
    numbers = (numbers ^ _shifted(numbers, 27)) * _ROUND_2
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifts right and fills with zeros; torch's own shift copies the sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _odd(numbers: torch.Tensor) -> torch.Tensor:
    """Returns the low 32 bits as odd int32."""
    return (numbers & 0xFFFFFFFF).to(torch.int32) | 1
