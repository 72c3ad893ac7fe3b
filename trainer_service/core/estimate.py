"""What a job will take: tokens, steps, adapter, memory, time; and what would make it fit a device that is too small. Pure.

Owns putting `cost_model`'s formulas together with a data set's figures and a measured speed. The same numbers are compared with
what the job really took when it ends (`events.Measured`).
"""

import math
from dataclasses import dataclass

from trainer_service.core.architecture import Architecture
from trainer_service.core.calibration import Speed
from trainer_service.core.cost_model import (
    Memory,
    Pass,
    Work,
    adapter_bytes,
    evaluation_flops,
    memory,
    trainable,
    training_flops,
)
from trainer_service.core.inspection import Figures
from trainer_service.core.recipe_values import Fleet, Recipe

FITS = 0.95
"""Share of the device's memory that a job may be predicted to take: allocators leave gaps."""
SUPERVISED_SHARE = 0.5
"""Of the tokens, where no row was tokenized yet."""
_SHORTEST = 64


@dataclass(frozen=True, slots=True)
class Estimate:
    """One job's prediction."""

    train_rows: int
    held_out_rows: int
    tokens: int
    """That go through the model in training, over all epochs."""
    steps: int
    trainable_parameters: int
    adapter_bytes: int
    memory: Memory
    micro_batch_tokens: int
    """Of the largest pass; below the service's setting where that would not fit."""
    flops_per_step: float
    flops_per_evaluation: float
    evaluations: int
    """Before the first step, after each epoch, and at the end where that is not the end of an epoch."""
    speed: Speed
    memory_bytes: int | None
    """Of the device; None: not known."""
    remedies: tuple[str, ...]
    """What would make a job fit that does not."""

    @property
    def seconds(self) -> float:
        """Of training and evaluations; without the start of the process, which loads the backbone."""
        return self.seconds_of(self.steps, self.evaluations)

    def flops_of(self, steps: int, evaluations: int) -> float:
        """Returns the operations of a part of the job."""
        return steps * self.flops_per_step + evaluations * self.flops_per_evaluation

    def seconds_of(self, steps: int, evaluations: int) -> float:
        """Returns how long a part of the job takes."""
        return self.flops_of(steps, evaluations) / self.speed.flops_per_second

    @property
    def fits(self) -> bool:
        """Whether the prediction stays within the device's memory; True where that is not known."""
        return self.memory_bytes is None or self.memory.peak <= FITS * self.memory_bytes


def estimate(shape: Architecture, recipe: Recipe, figures: Figures, fleet: Fleet, speed: Speed) -> Estimate:
    """Predicts a job.

    Args:
        shape: of the backbone.
        recipe: resolved.
        figures: of the whole data set, after the cut to the recipe's max_length.
        fleet: device and the size of a pass.
        speed: measured or guessed.
    """
    train_rows, held_out_rows = recipe.split(figures.rows)
    steps = recipe.total_steps(train_rows)
    epochs = steps / recipe.steps_per_epoch(train_rows)
    once, held = _work(figures, train_rows), _work(figures, held_out_rows)
    tokens, needed = _fitting(shape, recipe, figures, fleet)
    return Estimate(
        train_rows=train_rows,
        held_out_rows=held_out_rows,
        tokens=round(epochs * once.tokens),
        steps=steps,
        trainable_parameters=trainable(shape, recipe),
        adapter_bytes=adapter_bytes(shape, recipe),
        memory=needed,
        micro_batch_tokens=tokens,
        flops_per_step=training_flops(shape, recipe, once) * epochs / steps,
        flops_per_evaluation=evaluation_flops(shape, held),
        evaluations=1 + math.ceil(epochs),
        speed=speed,
        memory_bytes=fleet.memory_bytes,
        remedies=() if _fits(needed, fleet) else _remedies(shape, recipe, figures, fleet),
    )


def unseen(rows: int, recipe: Recipe) -> Figures:
    """Returns the figures to reckon with before any row was tokenized: every row as long as the recipe lets it be."""
    length = recipe.max_length
    return Figures(
        rows=rows,
        sampled_rows=0,
        max_length=length,
        tokens=rows * length,
        supervised_tokens=round(rows * length * SUPERVISED_SHARE),
        squared_tokens=rows * length * length,
        longest=length,
        median=length,
        percentile_95=length,
        cut_rows=0,
    )


def _work(figures: Figures, rows: int) -> Work:
    share = rows / figures.rows
    return Work(
        round(figures.tokens * share), round(figures.supervised_tokens * share), round(figures.squared_tokens * share)
    )


def _peak(shape: Architecture, recipe: Recipe, figures: Figures, fleet: Fleet, micro_batch_tokens: int) -> Memory:
    longest = min(figures.longest, recipe.max_length)
    # A pass holds at most a step's rows, and at least one row.
    tokens = max(longest, min(micro_batch_tokens, recipe.batch_rows * longest))
    share = figures.supervised_tokens / max(1, figures.tokens)
    return memory(shape, recipe, fleet.device, Pass(tokens, math.ceil(tokens * share)))


def _fits(needed: Memory, fleet: Fleet) -> bool:
    return fleet.memory_bytes is None or needed.peak <= FITS * fleet.memory_bytes


def _fitting(shape: Architecture, recipe: Recipe, figures: Figures, fleet: Fleet) -> tuple[int, Memory]:
    """Returns the largest pass that fits, by halves of the service's setting, and what it takes; else the smallest."""
    tokens = fleet.micro_batch_tokens
    while True:
        needed = _peak(shape, recipe, figures, fleet, tokens)
        if _fits(needed, fleet) or tokens <= min(figures.longest, recipe.max_length):
            return tokens, needed
        tokens //= 2


def _remedies(shape: Architecture, recipe: Recipe, figures: Figures, fleet: Fleet) -> tuple[str, ...]:
    """Returns the single changes that make the job fit; where none does, all of them together, or a larger device."""

    def length_for(changed: Recipe, longest: int) -> int:
        """Returns the longest rows that fit, by halves; 0: none do."""
        while longest >= _SHORTEST:
            if _would_fit(shape, changed.model_copy(update={"max_length": longest}), figures, fleet):
                return longest
            longest //= 2
        return 0

    savings: dict[str, dict[str, object]] = {}
    if not recipe.gradient_checkpointing:
        savings["gradient_checkpointing on"] = {"gradient_checkpointing": True}
    if recipe.bits == 16:
        savings["bits = 4"] = {"bits": 4}
    single = [
        text for text, change in savings.items() if _would_fit(shape, recipe.model_copy(update=change), figures, fleet)
    ]
    if length := length_for(recipe, recipe.max_length // 2):
        single.append(f"max_length = {length}")
    if single:
        return tuple(single)
    together = recipe.model_copy(update={name: value for change in savings.values() for name, value in change.items()})
    length = length_for(together, recipe.max_length)
    if length:
        shorter = [f"max_length = {length}"] if length < recipe.max_length else []
        return (" and ".join([*savings, *shorter]),)
    least = together.model_copy(update={"max_length": _SHORTEST})
    needed = _fitting(shape, least, figures, fleet)[1].peak / FITS
    return (f"a device with {needed / 1e9:.1f} GB, or a smaller backbone",)


def _would_fit(shape: Architecture, recipe: Recipe, figures: Figures, fleet: Fleet) -> bool:
    return _fits(_fitting(shape, recipe, figures, fleet)[1], fleet)
