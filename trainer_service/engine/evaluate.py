"""The held-out loss: what decides whether an adapter beats its base."""

from collections.abc import Iterator

import torch

from trainer_service.engine.backbone import Grafted
from trainer_service.engine.batches import Batch, Examples, batches, shares
from trainer_service.engine.loss import loss_of
from trainer_service.engine.ranks import ALONE, Ranks

ROWS_AT_ONCE = 1024
"""Rows that are fitted into passes together; fitting takes quadratic time, and more rows pack no better."""


def mean_loss(model: Grafted, examples: Examples, max_tokens: int, ranks: Ranks = ALONE) -> float:
    """Returns the mean loss per supervised token over `examples`, in evaluation mode, without gradients.

    Args:
        model: left in training mode.
        examples: the held-out rows.
        max_tokens: of one pass.
        ranks: each takes its share; all return the same mean.
    """
    model.model.eval()
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    tokens = 0
    with torch.inference_mode():
        for batch in _passes(model, examples, max_tokens, ranks):
            total += loss_of(model, batch).total
            tokens += len(batch.targets)
    model.model.train()
    summed, counted = ranks.sum(float(total), tokens)
    return summed / counted


def _passes(model: Grafted, examples: Examples, max_tokens: int, ranks: Ranks) -> Iterator[Batch]:
    for start in range(0, len(examples), ROWS_AT_ONCE):
        rows = range(start, min(start + ROWS_AT_ONCE, len(examples)))
        mine = shares(examples.lengths, rows, ranks.count)[ranks.rank]
        yield from batches(examples, mine, max_tokens, pad_id=model.pad_id, packed=model.decoder.packs)
