"""The loss: summed over supervised tokens, divided once by the whole accumulation window's count.

Dividing each pass by its own count and averaging would weigh a token in a short pass more than one in a long pass, so
the result would depend on how the step was cut.
"""

import torch
from torch.nn import functional as F

from trainer_service.engine.backbone import Grafted
from trainer_service.engine.data import Batch, Example, collate, micro_batches


def summed(model: Grafted, batch: Batch) -> torch.Tensor:
    """Returns the summed cross entropy over the batch's supervised tokens, float32 scalar with gradient."""
    targets = batch.targets.to(model.device, non_blocking=True)
    return F.cross_entropy(model.logits(batch), targets, reduction="sum")


def step_batches(model: Grafted, examples: list[Example], rows: list[int], max_tokens: int) -> list[Batch]:
    """Cuts the rows of one optimizer step into passes."""
    return [collate(examples, part, model.pad_id) for part in micro_batches(examples, rows, max_tokens)]
