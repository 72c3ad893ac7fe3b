"""The values of a recipe: what may be asked for, what runs, the presets, and what a recipe has to fit.

Owns the shapes and the limits of every value. Filling in what was left open is `recipe`; doubtful but possible choices
are `recipe_lint`; what the engine does with the values is the engine's.

Defaults come from the project's seed document (a QLoRA pipeline): rank by data-set size, alpha = 2r, dropout 0.05, lr 2e-4,
cosine with 5 % warm-up, weight decay 0.01, 3 epochs, 4 rows x 4 accumulation = 16 rows per step.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from trainer_service.core.errors import InvalidRecipe

Optimizer = Literal["paged_adamw_8bit", "adamw"]
ComputeDtype = Literal["bf16", "fp16", "fp32"]

ALL_LINEAR = "all-linear"
"""Target name that stands for every linear layer of the backbone (PEFT expands it; the output head is left out)."""

TARGET_SETS = {
    "attention-qv": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    ALL_LINEAR: (ALL_LINEAR,),
}
"""Names that a caller may give instead of modules. The seed: query and value route what the model attends to and are the
most for the least; key and output are for heavy restructuring and long contexts; all linear layers for the most capacity."""

SMALL_BASE = 100_000_000
"""Parameters below which `mini` is the default preset: at the seed's 2e-4 such a base learns next to nothing."""

FUSED_ATTENTION = ("qkv_proj", "query_key_value", "Wqkv")
"""What families with one projection for query, key and value call it."""

MAX_LENGTH = 131_072
"""Tokens of a row, where the backbone does not say less."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preset(_Frozen):
    """What a preset decides; the defaults are the seed's."""

    about: str
    """For people."""
    targets: tuple[str, ...] = TARGET_SETS["attention-qv"]
    gpu_bits: int = 4
    """Of the frozen base on a GPU."""
    learning_rate: float = 2e-4
    batch_rows: int = 16
    epochs: float = 3.0


PRESETS = {
    "compact": Preset(about="QLoRA on query and value: least memory, and the seed's own recipe"),
    "quality": Preset(about="QLoRA on all linear layers: more capacity", targets=TARGET_SETS[ALL_LINEAR]),
    "lora": Preset(about="LoRA on a 16-bit base: no quantisation noise", gpu_bits=16),
    # Measured on the default backbone (4.7M parameters): three tasks from exact match 0 to 0.95-1.0 in 80 such steps.
    "mini": Preset(
        about="for backbones below 100M parameters", gpu_bits=16, learning_rate=1e-2, batch_rows=8, epochs=6.0
    ),
}
NOT_OFFERED = {
    "full": "full fine-tuning is not offered: it makes a model of its own for each tenant, which one backbone cannot serve; "
    "for most of its accuracy use preset lora with target_modules all-linear and the largest rank of the fleet",
}
"""What the seed's decision matrix names and this service does not do, and what to do instead."""


class RecipeRequest(_Frozen):
    """What a caller asked for; None means 'choose for me'."""

    preset: str = ""
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] = ()
    """Modules, or keys of TARGET_SETS."""
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
    patience: int | None = None
    use_rslora: bool | None = None
    compute_dtype: str | None = None
    optimizer: str | None = None


class Recipe(_Frozen):
    """Everything that decides the weights of an adapter, next to the data, the base and the package versions."""

    preset: str
    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    bits: int
    """4: NF4 with double quantisation; 16: as stored (fp32 on a CPU)."""
    epochs: float
    max_steps: int | None
    """Caps the epochs when set."""
    learning_rate: float
    """The peak: linear warm-up, then cosine to zero."""
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
    patience: int | None = None
    """Epochs in a row without a better held-out loss after which training ends; None: it runs to its end. The best epoch's
    adapter is kept either way."""
    use_rslora: bool = False
    """Scales by alpha / sqrt(rank) instead of alpha / rank."""
    compute_dtype: ComputeDtype | None = None
    """Of the arithmetic; None only in recipes from before it was recorded."""

    @property
    def scale(self) -> float:
        """What the adapter's product is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

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


PASS_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Tokens of a forward pass by default. On a CPU larger ones leave its cache: slower, and four times the memory; on a GPU
smaller ones read (and under NF4 unpack) the weights too often. Measured: docs/benchmarks.md."""


class Fleet(_Frozen):
    """What a recipe has to fit: the trainer's device, the backbone, and what serving accepts."""

    device: Literal["cpu", "cuda"] = "cpu"
    device_name: str = ""
    """For people, and the key of what was measured on it."""
    memory_bytes: int | None = None
    """Of the device; None: not known, and nothing is refused for it."""
    bf16: bool = True
    """Whether a GPU computes in bfloat16 (Ampere and newer)."""
    threads: int = 1
    """Of a worker on a CPU."""
    micro_batch_tokens: int = 8192
    """Tokens of one forward pass."""
    max_rank: int = 64
    base_digest: str = ""
    base_parameters: int | None = None
    """Of the backbone; None when unknown."""
    template_digest: str = ""
    """sha256 of the chat template that rows are rendered with."""
    serves_base: str = ""
    """Digest of the backbone that the serving fleet runs; empty: this one."""
    serves_template: str = ""
    """Digest of the chat template that the serving fleet's clients render with; empty: the adapter's own."""

    max_positions: int | None = None
    """Longest row that the backbone can see, in tokens; None: it does not say."""
    modules: frozenset[str] = frozenset()
    """Last parts of the names of the backbone's weights (q_proj, embed_tokens, ...); empty: not known here."""

    @property
    def default_preset(self) -> str:
        """`compact`, the seed's; `mini` for a backbone that is too small for it."""
        return "mini" if self.base_parameters is not None and self.base_parameters < SMALL_BASE else "compact"

    @property
    def longest(self) -> int:
        """Tokens that a row may have."""
        return self.max_positions or MAX_LENGTH


def rank_for_rows(rows: int) -> int:
    """Returns the rank that suits a data set of `rows` rows: 8 below 5,000, 16 up to 50,000, else 32 (the seed)."""
    if rows < 5_000:
        return 8
    return 16 if rows <= 50_000 else 32


def check(recipe: Recipe, fleet: Fleet) -> None:
    """Raises InvalidRecipe for the first value that cannot work; the message names the field and its range."""
    rules: list[tuple[str, float, bool, str]] = [
        ("rank", recipe.rank, 1 <= recipe.rank <= fleet.max_rank, f"1..{fleet.max_rank} (what the fleet serves)"),
        ("alpha", recipe.alpha, 0 < recipe.alpha <= 4096, "above 0, at most 4096"),
        ("dropout", recipe.dropout, 0 <= recipe.dropout < 1, "0 to below 1"),
        ("bits", recipe.bits, recipe.bits in (4, 16), "4 or 16"),
        ("epochs", recipe.epochs, 0 < recipe.epochs <= 1000, "above 0, at most 1000"),
        ("max_steps", recipe.max_steps or 0, recipe.max_steps is None or recipe.max_steps >= 1, "at least 1"),
        ("learning_rate", recipe.learning_rate, 0 < recipe.learning_rate <= 1, "above 0, at most 1"),
        ("batch_rows", recipe.batch_rows, 1 <= recipe.batch_rows <= 4096, "1..4096"),
        (
            "max_length",
            recipe.max_length,
            8 <= recipe.max_length <= fleet.longest,
            f"8..{fleet.longest} (the backbone's)",
        ),
        ("warmup_ratio", recipe.warmup_ratio, 0 <= recipe.warmup_ratio < 1, "0 to below 1"),
        ("weight_decay", recipe.weight_decay, 0 <= recipe.weight_decay <= 1, "0..1"),
        ("eval_fraction", recipe.eval_fraction, 0 < recipe.eval_fraction <= 0.5, "above 0, at most 0.5"),
        ("patience", recipe.patience or 0, recipe.patience is None or recipe.patience >= 1, "at least 1"),
        ("seed", recipe.seed, 0 <= recipe.seed < 2**63, "0 or more"),
    ]
    for field, value, fits, allowed in rules:
        # NaN fails every comparison above, so it never fits.
        if not fits:
            raise InvalidRecipe(f"recipe: {field} = {value:g} is impossible; allowed: {allowed}")
    # The first epoch is the best so far, and after the last one there is nothing left to stop.
    if recipe.patience is not None and recipe.patience + 2 > math.ceil(recipe.epochs):
        raise InvalidRecipe(
            f"recipe: patience = {recipe.patience} is not used: training could stop before epoch {recipe.patience + 2} at the "
            f"earliest, and there are {recipe.epochs:g}; raise epochs, or leave patience out"
        )
    for target in recipe.target_modules:
        _check_target(target, fleet)


def _check_target(target: str, fleet: Fleet) -> None:
    if not target or not all(part.isidentifier() for part in target.replace("-", "_").split(".")):
        raise InvalidRecipe(f"recipe: target module {target!r} is not a module name; example: q_proj")
    leaf = target.rsplit(".", 1)[-1]
    if fleet.modules and target != ALL_LINEAR and leaf not in fleet.modules:
        known = ", ".join(sorted(name for name in fleet.modules if "norm" not in name))
        sets = ", ".join(TARGET_SETS)
        raise InvalidRecipe(f"recipe: the backbone has no module '{target}'; it has {known}; or name a set: {sets}")
