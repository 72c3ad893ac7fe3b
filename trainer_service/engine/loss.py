"""The loss: summed over supervised tokens, each weighed alike over the whole accumulation window.

Dividing each pass by its own count and averaging would weigh a token in a short pass more than one in a long pass, so
the result would depend on how the step was cut.

The logits of a pass never exist whole. At 128,256 words they take half a megabyte a token, and the loss' gradient as
much again; instead the output layer and the loss go through the supervised tokens in chunks, and since the output
layer is frozen, the gradient for the hidden states comes from the same visit, without computing anything twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainer_service.engine.backbone import Grafted
from trainer_service.engine.batches import Batch

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Of one chunk's float32 logits. Small chunks stay in a CPU's cache; a GPU reads the output layer once per chunk."""


@dataclass(frozen=True)
class Loss:
    """Of one pass."""

    total: torch.Tensor
    """float32 scalar: the summed loss of all supervised tokens, without gradient."""
    weighed: torch.Tensor
    """float32 scalar with gradient: total * weight."""


def loss_of(model: Grafted, batch: Batch, *, weight: float = 1.0) -> Loss:
    """Runs one forward pass.

    Args:
        model: in training or evaluation mode.
        batch: one pass.
        weight: of each token in the step's loss: one over the window's tokens, times fp16's loss scale.
    """
    targets = batch.targets.to(model.device, non_blocking=True)
    if not model.decoder.plain_head:
        summed = F.cross_entropy(model.logits(batch).float(), targets, reduction="sum")
        return Loss(summed.detach(), summed * weight)
    hidden = model.decoder.hidden(batch)
    head = model.decoder.head
    with model.decoder.autocast():
        total, weighed = _ChunkedLoss.apply(hidden, head.weight, head.bias, targets, weight)  # type: ignore[no-untyped-call]
    return Loss(total, weighed)


class _ChunkedLoss(torch.autograd.Function):
    """Cross entropy of softmax(hidden W^T + bias), with the gradient for `hidden` made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        token_weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = max(1, CHUNK_BYTES[hidden.device.type] // (4 * len(weight)))
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight, bias).float()
            chosen = targets[part, None]
            logits -= logits.logsumexp(1, keepdim=True)
            total -= logits.gather(1, chosen).sum()
            if gradient is None:
                continue
            # d loss / d logits = softmax - one at the target; `logits` are log-probabilities by now.
            slope = logits.exp_()
            slope.scatter_add_(1, chosen, slope.new_full(chosen.shape, -1.0))
            # Weighed before it is rounded to 16 bits: unscaled fp16 gradients would underflow.
            gradient[part] = (slope * token_weight).to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(total)
        return total, total * token_weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None, None
