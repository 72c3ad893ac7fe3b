"""The optimizer and its learning rate.

Cosine to zero after a linear warm-up, as a function of the step alone, so that there is no scheduler state to restore.
"""

import math
from typing import Any

import torch
from torch import nn

from trainer_service.core.recipe import Recipe


def learning_rate(step: int, *, total: int, recipe: Recipe) -> float:
    """Returns the rate of optimizer step `step` (from 0) of `total`."""
    warmup = math.ceil(total * recipe.warmup_ratio)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build(parameters: list[nn.Parameter], recipe: Recipe) -> Any:
    """Returns the optimizer that the recipe names; the rate is set at every step."""
    if recipe.optimizer == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(parameters, lr=0.0, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=recipe.weight_decay, fused=True)
