"""The held-out loss: what decides whether an adapter beats its base."""

import torch

from trainer_service.engine.backbone import Grafted
from trainer_service.engine.data import Example
from trainer_service.engine.loss import step_batches, summed


def mean_loss(model: Grafted, examples: list[Example], max_tokens: int) -> float:
    """Returns the mean loss per supervised token over `examples`, in evaluation mode, without gradients."""
    model.model.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for batch in step_batches(model, examples, list(range(len(examples))), max_tokens):
            total += float(summed(model, batch))
            tokens += len(batch.targets)
    model.model.train()
    return total / tokens
