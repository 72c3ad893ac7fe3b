"""The recipe of a job: what was asked, else the preset, else a rule; and saying of every value which of them set it.

Pure and idempotent: the same request, row count and fleet give the same recipe, and asking for exactly what came out gives
it again. Owns the order of precedence and the automatic rules. The values themselves are `recipe_values`'.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from trainer_service.core.errors import InvalidRecipe
from trainer_service.core.events import Notice, NoticeLevel
from trainer_service.core.recipe_values import (
    ALL_LINEAR,
    FUSED_ATTENTION,
    NOT_OFFERED,
    PRESETS,
    TARGET_SETS,
    ComputeDtype,
    Fleet,
    Optimizer,
    Preset,
    Recipe,
    RecipeRequest,
    check,
    rank_for_rows,
)

__all__ = ["ALL_LINEAR", "Fleet", "Recipe", "RecipeRequest", "Resolution", "Setting", "Source", "explain", "resolve"]

T = TypeVar("T")


class Source(StrEnum):
    """What set a value."""

    ASKED = "asked"
    """The caller."""
    PRESET = "preset"
    AUTOMATIC = "automatic"
    """A rule over rows, rank or backbone."""
    DEFAULT = "default"
    """The seed's value, whatever the preset."""
    DEVICE = "device"
    """The device made it replace the seed's."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value."""

    name: str
    value: str
    source: Source
    reason: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """A recipe, and how it came about."""

    recipe: Recipe
    settings: tuple[Setting, ...]
    notices: tuple[Notice, ...]
    """What differs from the seed's recipe because of the backbone's size or of the device."""


def resolve(request: RecipeRequest, *, rows: int, fleet: Fleet) -> tuple[Recipe, list[Notice]]:
    """Fills in what was left open and says what was replaced for this device; see `explain`."""
    resolution = explain(request, rows=rows, fleet=fleet)
    return resolution.recipe, list(resolution.notices)


def explain(request: RecipeRequest, *, rows: int, fleet: Fleet) -> Resolution:
    """Fills in what was left open and says of each value where it comes from.

    Args:
        request: what the caller set.
        rows: rows of the data set, held-out ones included.
        fleet: device and limits.

    Raises:
        InvalidRecipe: unknown preset, or a value that cannot work; the message names the field and its range.
    """
    name = request.preset or fleet.default_preset
    if name in NOT_OFFERED:
        raise InvalidRecipe(f"recipe: {NOT_OFFERED[name]}")
    if name not in PRESETS:
        raise InvalidRecipe(f"recipe: unknown preset '{name}'; use one of {', '.join(PRESETS)}")
    if rows < 2:
        raise InvalidRecipe(f"recipe: a data set of {rows} row(s) cannot be split; at least 2 rows are needed")
    filled = _Filling(request, PRESETS[name], name, rows, fleet)
    recipe = filled.recipe()
    check(recipe, fleet)
    return Resolution(recipe, tuple(filled.settings), tuple(_notices(request, recipe, PRESETS[name], fleet)))


class _Filling:
    """One recipe being filled in; each method chooses one value and notes why."""

    def __init__(self, request: RecipeRequest, preset: Preset, name: str, rows: int, fleet: Fleet) -> None:
        self._request, self._preset, self._name, self._rows, self._fleet = request, preset, name, rows, fleet
        self._on_gpu = fleet.device == "cuda"
        self.settings: list[Setting] = []

    def recipe(self) -> Recipe:
        preset, seed = self._of_preset, self._of_seed
        self._note("preset", self._name, *self._why_preset())
        rslora = seed("use_rslora", False, "scale by alpha / rank")
        rank = self._rank()
        return Recipe(
            preset=self._name,
            rank=rank,
            alpha=self._alpha(rank, rslora),
            dropout=seed("dropout", 0.05, "more makes adapters underfit"),
            target_modules=self._targets(),
            bits=self._bits(),
            compute_dtype=self._compute_dtype(),
            epochs=preset("epochs", self._preset.epochs),
            max_steps=self._given("max_steps", None, Source.DEFAULT, "the epochs say how long"),
            learning_rate=preset("learning_rate", self._preset.learning_rate),
            batch_rows=preset("batch_rows", self._preset.batch_rows),
            max_length=self._max_length(),
            warmup_ratio=seed("warmup_ratio", 0.05, "then cosine to zero"),
            weight_decay=seed("weight_decay", 0.01, "the seed's"),
            eval_fraction=seed("eval_fraction", 0.1, "held out, by the data's digest"),
            seed=seed("seed", 0, "the same data and seed give the same adapter"),
            gradient_checkpointing=self._checkpointing(),
            optimizer=self._optimizer(),
            patience=self._given("patience", None, Source.DEFAULT, "runs to its end; the best epoch is kept"),
            use_rslora=rslora,
        )

    def _note(self, name: str, value: object, source: Source, reason: str) -> None:
        self.settings.append(Setting(name, _text(value), source, reason))

    def _given(self, name: str, default: T, source: Source, reason: str) -> T:
        """Returns what was asked for, else `default`, and notes which."""
        asked: T | None = getattr(self._request, name)
        value = default if asked is None else asked
        self._note(name, value, Source.ASKED if asked is not None else source, "you" if asked is not None else reason)
        return value

    def _of_preset(self, name: str, value: T) -> T:
        return self._given(name, value, Source.PRESET, self._name)

    def _of_seed(self, name: str, value: T, reason: str) -> T:
        return self._given(name, value, Source.DEFAULT, reason)

    def _why_preset(self) -> tuple[Source, str]:
        if self._request.preset:
            return Source.ASKED, self._preset.about
        if self._name == "mini":
            return Source.AUTOMATIC, f"the backbone has {self._fleet.base_parameters or 0:,} parameters"
        return Source.DEFAULT, self._preset.about

    def _rank(self) -> int:
        fits = rank_for_rows(self._rows)
        rank = min(fits, self._fleet.max_rank)
        limit = f", the fleet serves at most {rank}" if rank < fits else ""
        reason = f"{self._rows:,} rows: 8 below 5,000, 16 up to 50,000, else 32{limit}"
        return self._given("rank", rank, Source.AUTOMATIC, reason)

    def _alpha(self, rank: int, rslora: bool) -> float:
        if rslora:
            alpha = float(max(1, round(2 * math.sqrt(max(rank, 1)))))
            return self._given("alpha", alpha, Source.AUTOMATIC, "2 x sqrt(rank): the scale stays 2 under rsLoRA")
        return self._given("alpha", 2.0 * rank, Source.AUTOMATIC, "2 x rank")

    def _targets(self) -> tuple[str, ...]:
        modules = self._fleet.modules
        if asked := tuple(dict.fromkeys(self._request.target_modules)):
            expanded = [_attention(TARGET_SETS[it], modules) if it in TARGET_SETS else (it,) for it in asked]
            targets = tuple(dict.fromkeys(name for names in expanded for name in names))
            if ALL_LINEAR in targets and len(targets) > 1:
                raise InvalidRecipe(f"recipe: {ALL_LINEAR} covers the other targets; name it alone")
            self._note("target_modules", targets, Source.ASKED, "you")
            return targets
        targets = _attention(self._preset.targets, modules)
        fused = targets != self._preset.targets
        reason = "the backbone has one projection for query, key and value" if fused else self._name
        self._note("target_modules", targets, Source.AUTOMATIC if fused else Source.PRESET, reason)
        return targets

    def _bits(self) -> int:
        if self._on_gpu or self._preset.gpu_bits == 16:
            return self._of_preset("bits", self._preset.gpu_bits)
        return self._given("bits", 16, Source.DEVICE, "a CPU gains nothing from 4 bits")

    def _compute_dtype(self) -> ComputeDtype:
        best: ComputeDtype = "fp32" if not self._on_gpu else "bf16" if self._fleet.bf16 else "fp16"
        reasons = {"fp32": "what a CPU computes in", "bf16": "the GPU has it", "fp16": "the GPU has no bf16"}
        asked = self._given("compute_dtype", best, Source.DEVICE if best != "bf16" else Source.AUTOMATIC, reasons[best])
        allowed: dict[str, ComputeDtype] = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
        if asked not in allowed:
            raise InvalidRecipe(f"recipe: compute_dtype {asked!r:.40} is unknown; use bf16, fp16 or fp32")
        if not self._on_gpu and asked != "fp32":
            raise InvalidRecipe(
                f"recipe: compute_dtype = {asked} is not used on a CPU, which computes in fp32; leave it out"
            )
        return allowed[asked]

    def _max_length(self) -> int:
        length = min(512, self._fleet.longest)
        short = length < 512
        reason = "all that the backbone sees" if short else "the seed's; longer rows are cut, and counted"
        return self._given("max_length", length, Source.AUTOMATIC if short else Source.DEFAULT, reason)

    def _checkpointing(self) -> bool:
        if self._on_gpu:
            return self._of_seed("gradient_checkpointing", True, "activations are the larger part of the memory")
        return self._given("gradient_checkpointing", False, Source.DEVICE, "memory is not short on a CPU, time is")

    def _optimizer(self) -> Optimizer:
        allowed: dict[str, Optimizer] = {"paged_adamw_8bit": "paged_adamw_8bit", "adamw": "adamw"}
        asked = self._request.optimizer or "paged_adamw_8bit"
        if asked not in allowed:
            raise InvalidRecipe(f"recipe: optimizer {asked!r:.40} is unknown; use {' or '.join(allowed)}")
        if not self._on_gpu and asked == "paged_adamw_8bit":
            self._note("optimizer", "adamw", Source.DEVICE, "a CPU has no device memory to page")
            return "adamw"
        reason = "8-bit states; pages only tensors of 100,000 elements and more, which small adapters have none of"
        return allowed[self._given("optimizer", asked, Source.DEFAULT, reason)]


def _attention(targets: tuple[str, ...], modules: frozenset[str]) -> tuple[str, ...]:
    """Returns targets, or the backbone's one name for query, key and value together where it fuses them."""
    if not modules or targets == (ALL_LINEAR,) or set(targets) <= modules:
        return targets
    fused = tuple(name for name in FUSED_ATTENTION if name in modules)
    return (*fused, *(name for name in targets if name in modules)) if fused else targets


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notices(request: RecipeRequest, recipe: Recipe, preset: Preset, fleet: Fleet) -> list[Notice]:
    said: list[str] = []
    if not request.preset and recipe.preset == "mini":
        said.append(
            f"preset mini chosen: the backbone has {fleet.base_parameters or 0:,} parameters and would learn next to nothing at "
            f"the usual learning rate of 2e-4; --preset compact keeps that"
        )
    if fleet.device == "cpu":
        said += ["optimizer paged_adamw_8bit replaced by AdamW: there is no device memory to page on a CPU"] * (
            request.optimizer != "adamw"
        )
        if request.bits is None and preset.gpu_bits == 4:
            said.append("4-bit base replaced by the unquantised base: NF4 saves no time on a CPU; ask with bits=4")
        if request.bits == 4:
            said.append("bits=4 on a CPU works and is several times slower than the unquantised base")
        if request.gradient_checkpointing is None:
            said.append("gradient checkpointing is off on a CPU: it trades time for memory that is not short here")
    return [Notice(level=NoticeLevel.INFO, message=text) for text in said]
