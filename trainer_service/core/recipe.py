"""The recipe of a job: what may be asked for, and its resolution into what runs.

Pure: the same request, row count and device give the same recipe and notices. Owns presets, defaults and limits. Does
not own the warnings about doubtful but possible choices (`recipe_lint`) nor what the engine does with the values.

Defaults come from the project's seed document (a QLoRA pipeline): rank by data-set size, alpha = 2r, dropout 0.05, lr 2e-4,
cosine with 5 % warm-up, weight decay 0.01, 3 epochs, 4 rows x 4 accumulation = 16 rows per step.
"""

import math
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from trainer_service.core.errors import InvalidRecipe
from trainer_service.core.events import Notice, NoticeLevel

T = TypeVar("T")
Optimizer = Literal["paged_adamw_8bit", "adamw"]

ALL_LINEAR = "all-linear"
"""Target name that stands for every linear layer of the backbone (PEFT expands it; the output head is left out)."""

FUSED_ATTENTION = ("qkv_proj", "query_key_value", "Wqkv")
"""What families with one projection for query, key and value call it."""

MAX_LENGTH = 131_072
"""Tokens of a row, where the backbone does not say less."""

SMALL_BASE = 100_000_000
"""Parameters below which `mini` is the default preset: at the seed's 2e-4 such a base learns next to nothing."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preset(_Frozen):
    """What a preset decides; the defaults are the seed's."""

    targets: tuple[str, ...] = ("q_proj", "v_proj")
    gpu_bits: int = 4
    """Of the frozen base on a GPU."""
    learning_rate: float = 2e-4
    batch_rows: int = 16
    epochs: float = 3.0


PRESETS = {
    "compact": Preset(),
    "quality": Preset(targets=(ALL_LINEAR,)),
    "lora": Preset(gpu_bits=16),
    # Measured on the default backbone (4.7M parameters): three tasks from exact match 0 to 0.95-1.0 in 80 such steps.
    "mini": Preset(gpu_bits=16, learning_rate=1e-2, batch_rows=8, epochs=6.0),
}


class RecipeRequest(_Frozen):
    """What a caller asked for; None means 'choose for me'."""

    preset: str = ""
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] = ()
    bits: int | None = None
    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    batch_rows: int | None = None
    max_length: int | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    eval_fraction: float | None = None
    seed: int | None = None
    gradient_checkpointing: bool | None = None


class Recipe(_Frozen):
    """Everything that decides the weights of an adapter, next to the data, the base and the package versions."""

    preset: str
    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    bits: int
    epochs: float
    max_steps: int | None
    """Caps the epochs when set."""
    learning_rate: float
    batch_rows: int
    """Rows per optimizer step, over the whole accumulation window."""
    max_length: int
    """Tokens per row; what is longer is cut, and counted."""
    warmup_ratio: float
    weight_decay: float
    eval_fraction: float
    seed: int
    gradient_checkpointing: bool
    optimizer: Optimizer

    def split(self, rows: int) -> tuple[int, int]:
        """Returns how many of `rows` are trained on and how many are held out (at least one)."""
        held_out = min(rows - 1, max(1, round(rows * self.eval_fraction)))
        return rows - held_out, held_out

    def steps_per_epoch(self, train_rows: int) -> int:
        """Returns the optimizer steps of one epoch; the last one may see fewer rows."""
        return math.ceil(train_rows / self.batch_rows)

    def total_steps(self, train_rows: int) -> int:
        """Returns the optimizer steps of the whole job, at least one."""
        steps = max(1, math.ceil(self.epochs * self.steps_per_epoch(train_rows) - 1e-9))
        return min(steps, self.max_steps) if self.max_steps is not None else steps


class Fleet(_Frozen):
    """What a recipe has to fit: the trainer's device, the backbone, and what serving accepts."""

    device: Literal["cpu", "cuda"] = "cpu"
    max_rank: int = 64
    max_positions: int | None = None
    """Longest row that the backbone can see, in tokens; None: it does not say."""
    modules: frozenset[str] = frozenset()
    """Last parts of the names of the backbone's weights (q_proj, embed_tokens, ...); empty: not known here."""
    base_parameters: int | None = None
    """Of the backbone; None when unknown."""

    @property
    def default_preset(self) -> str:
        """`compact`, the seed's; `mini` for a backbone that is too small for it."""
        return "mini" if self.base_parameters is not None and self.base_parameters < SMALL_BASE else "compact"


def rank_for_rows(rows: int) -> int:
    """Returns the rank that suits a data set of `rows` rows: 8 below 5,000, 16 below 50,000, else 32 (the seed)."""
    if rows < 5_000:
        return 8
    return 16 if rows < 50_000 else 32


def resolve(request: RecipeRequest, *, rows: int, fleet: Fleet) -> tuple[Recipe, list[Notice]]:
    """Fills in what was left open and says what was replaced for this device.

    Args:
        request: what the caller set.
        rows: rows of the data set, held-out ones included.
        fleet: device and limits.

    Raises:
        InvalidRecipe: unknown preset, or a value that cannot work; the message names the field and its range.
    """
    preset = request.preset or fleet.default_preset
    if preset not in PRESETS:
        raise InvalidRecipe(f"recipe: unknown preset '{preset}'; use one of {', '.join(PRESETS)}")
    if rows < 2:
        raise InvalidRecipe(f"recipe: a data set of {rows} row(s) cannot be split; at least 2 rows are needed")
    chosen = PRESETS[preset]
    on_gpu = fleet.device == "cuda"
    longest = fleet.max_positions or MAX_LENGTH
    rank = request.rank if request.rank is not None else min(rank_for_rows(rows), fleet.max_rank)
    recipe = Recipe(
        preset=preset,
        rank=rank,
        alpha=_or(request.alpha, 2.0 * rank),
        dropout=_or(request.dropout, 0.05),
        target_modules=tuple(dict.fromkeys(request.target_modules)) or _attention(chosen.targets, fleet.modules),
        bits=_or(request.bits, chosen.gpu_bits if on_gpu else 16),
        epochs=_or(request.epochs, chosen.epochs),
        max_steps=request.max_steps,
        learning_rate=_or(request.learning_rate, chosen.learning_rate),
        batch_rows=_or(request.batch_rows, chosen.batch_rows),
        max_length=_or(request.max_length, min(512, longest)),
        warmup_ratio=_or(request.warmup_ratio, 0.05),
        weight_decay=_or(request.weight_decay, 0.01),
        eval_fraction=_or(request.eval_fraction, 0.1),
        seed=_or(request.seed, 0),
        gradient_checkpointing=_or(request.gradient_checkpointing, on_gpu),
        optimizer="paged_adamw_8bit" if on_gpu else "adamw",
    )
    _check(recipe, fleet)
    return recipe, _replacements(request, recipe, chosen.gpu_bits, fleet)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _attention(targets: tuple[str, ...], modules: frozenset[str]) -> tuple[str, ...]:
    """Returns a preset's targets, or the backbone's one name for query, key and value together where it fuses them."""
    if not modules or targets == (ALL_LINEAR,) or set(targets) <= modules:
        return targets
    return tuple(name for name in FUSED_ATTENTION if name in modules) or targets


def _check(recipe: Recipe, fleet: Fleet) -> None:
    """Raises InvalidRecipe for the first value that cannot work."""
    longest = fleet.max_positions or MAX_LENGTH
    rules: list[tuple[str, float, bool, str]] = [
        ("rank", recipe.rank, 1 <= recipe.rank <= fleet.max_rank, f"1..{fleet.max_rank} (what the fleet serves)"),
        ("alpha", recipe.alpha, 0 < recipe.alpha <= 4096, "above 0, at most 4096"),
        ("dropout", recipe.dropout, 0 <= recipe.dropout < 1, "0 to below 1"),
        ("bits", recipe.bits, recipe.bits in (4, 16), "4 or 16"),
        ("epochs", recipe.epochs, 0 < recipe.epochs <= 1000, "above 0, at most 1000"),
        ("max_steps", recipe.max_steps or 0, recipe.max_steps is None or recipe.max_steps >= 1, "at least 1"),
        ("learning_rate", recipe.learning_rate, 0 < recipe.learning_rate <= 1, "above 0, at most 1"),
        ("batch_rows", recipe.batch_rows, 1 <= recipe.batch_rows <= 4096, "1..4096"),
        ("max_length", recipe.max_length, 8 <= recipe.max_length <= longest, f"8..{longest} (the backbone's)"),
        ("warmup_ratio", recipe.warmup_ratio, 0 <= recipe.warmup_ratio < 1, "0 to below 1"),
        ("weight_decay", recipe.weight_decay, 0 <= recipe.weight_decay <= 1, "0..1"),
        ("eval_fraction", recipe.eval_fraction, 0 < recipe.eval_fraction <= 0.5, "above 0, at most 0.5"),
        ("seed", recipe.seed, 0 <= recipe.seed < 2**63, "0 or more"),
    ]
    for field, value, fits, allowed in rules:
        # NaN fails every comparison above, so it never fits.
        if not fits:
            raise InvalidRecipe(f"recipe: {field} = {value:g} is impossible; allowed: {allowed}")
    for target in recipe.target_modules:
        if not target or not all(part.isidentifier() for part in target.replace("-", "_").split(".")):
            raise InvalidRecipe(f"recipe: target module {target!r} is not a module name; example: q_proj")
        leaf = target.rsplit(".", 1)[-1]
        if fleet.modules and target != ALL_LINEAR and leaf not in fleet.modules:
            known = ", ".join(sorted(name for name in fleet.modules if "norm" not in name))
            raise InvalidRecipe(f"recipe: the backbone has no module '{target}'; it has {known}")


def _replacements(request: RecipeRequest, recipe: Recipe, gpu_bits: int, fleet: Fleet) -> list[Notice]:
    """Says what differs from the seed's recipe because of the backbone's size or of the device."""
    notices = []
    if not request.preset and recipe.preset == "mini":
        notices.append(
            f"preset mini chosen: the backbone has {fleet.base_parameters or 0:,} parameters and would learn next to nothing at "
            f"the usual learning rate of 2e-4; --preset compact keeps that"
        )
    if fleet.device == "cuda":
        return [Notice(level=NoticeLevel.INFO, message=text) for text in notices]
    notices += ["optimizer paged_adamw_8bit replaced by AdamW: there is no device memory to page on a CPU"]
    if request.bits is None and gpu_bits == 4:
        notices.append("4-bit base replaced by the unquantised base: NF4 saves no time on a CPU; ask with bits=4")
    if request.bits == 4:
        notices.append("bits=4 on a CPU works and is several times slower than the unquantised base")
    if request.gradient_checkpointing is None:
        notices.append("gradient checkpointing is off on a CPU: it trades time for memory that is not short here")
    return [Notice(level=NoticeLevel.INFO, message=text) for text in notices]
