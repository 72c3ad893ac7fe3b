"""Choices in a recipe that work and are likely to disappoint, and those that cannot end well. Pure.

Each rule is one of the seed's pitfalls or a line of the design; each says its level, its reason and what to do. An ERROR stops
a job at admission, before any device is touched; a WARNING becomes one of the job's first events.
"""

from trainer_service.core.findings import Finding, Level
from trainer_service.core.recipe_values import ALL_LINEAR, FUSED_ATTENTION, Fleet, Recipe, rank_for_rows

SMALL_CARD = 16 << 30
"""Bytes of a GPU on which activations are what runs out first; the seed names cards of 8 to 12 GB."""
MIN_STEPS = 100


def lint(recipe: Recipe, *, rows: int, fleet: Fleet) -> list[Finding]:
    """Returns what is doubtful or wrong with a resolved recipe on a data set of `rows` rows, errors first."""
    found = [*_targets(recipe), *_numbers(recipe, rows), *_device(recipe, fleet), *_serving(fleet)]
    return sorted(found, key=lambda it: it.level is not Level.ERROR)


def _finding(level: Level, code: str, message: str, fix: str) -> Finding:
    return Finding(level=level, code=code, message=message, fix=fix)


def _warning(code: str, message: str, fix: str) -> Finding:
    return _finding(Level.WARNING, code, message, fix)


def _targets(recipe: Recipe) -> list[Finding]:
    names = {target.rsplit(".", 1)[-1] for target in recipe.target_modules}
    if names & {ALL_LINEAR, *FUSED_ATTENTION} or {"q_proj", "v_proj"} <= names:
        return []
    missing = sorted({"q_proj", "v_proj"} - names)
    if len(missing) == 2:
        text = "neither q_proj nor v_proj is a target: the adapter cannot redirect attention"
    else:
        text = f"{missing[0]} is not a target: query and value together route what the model attends to"
    return [_warning("no_attention", text, f"add {' and '.join(missing)}")]


def _numbers(recipe: Recipe, rows: int) -> list[Finding]:
    found: list[Finding] = []
    train_rows, _ = recipe.split(rows)
    steps = recipe.total_steps(train_rows)
    advised = rank_for_rows(rows)
    if recipe.dropout > 0.1:
        small = ", the more so on fewer than 5,000 rows" if rows < 5_000 else ""
        text = f"dropout {recipe.dropout:g} is above 0.1: adapters underfit{small}"
        found.append(_warning("dropout", text, "start with 0.05; raise it only when the held-out loss stops falling"))
    if recipe.rank > advised:
        text = f"rank {recipe.rank} is high for {rows} rows: it may memorise them instead of generalising"
        found.append(_warning("rank", text, f"use rank {advised}"))
    if not 0.5 <= recipe.scale <= 4:
        shape = "alpha / sqrt(rank)" if recipe.use_rslora else "alpha / rank"
        text = f"{shape} = {recipe.scale:g} is outside 0.5..4: the adapter is drowned, or drowns the base"
        found.append(_warning("alpha", text, "leave alpha out for a scale of 2, which is stable for most tasks"))
    if steps < MIN_STEPS:
        text = f"only {steps} optimizer steps: the adapter may not have learned yet"
        capped = recipe.max_steps is not None and recipe.max_steps <= steps
        found.append(_warning("steps", text, "raise max_steps" if capped else "raise epochs, or lower batch_rows"))
    elif recipe.max_steps is not None and recipe.max_steps > steps:
        text = f"max_steps {recipe.max_steps} is never reached: {recipe.epochs:g} epochs are {steps} steps"
        found.append(_warning("max_steps", text, "raise epochs, or leave max_steps out"))
    return found


def _device(recipe: Recipe, fleet: Fleet) -> list[Finding]:
    found: list[Finding] = []
    if fleet.device != "cuda":
        return found
    if recipe.bits == 4 and recipe.compute_dtype == "fp32":
        text = "compute_dtype fp32 under a 4-bit base: every layer is unpacked to four bytes a weight, which undoes the saving"
        found.append(_finding(Level.ERROR, "compute_dtype", text, f"use {'bf16' if fleet.bf16 else 'fp16'}"))
    if recipe.compute_dtype == "bf16" and not fleet.bf16:
        text = f"{fleet.device_name or 'the GPU'} has no bf16 (Ampere and newer have)"
        found.append(_finding(Level.ERROR, "no_bf16", text, "use fp16, or leave compute_dtype out"))
    if not recipe.gradient_checkpointing and fleet.memory_bytes is not None and fleet.memory_bytes < SMALL_CARD:
        text = f"gradient checkpointing is off on a card of {fleet.memory_bytes / 1e9:.0f} GB: activations may not fit"
        found.append(_warning("checkpointing", text, "leave gradient_checkpointing out"))
    return found


def _serving(fleet: Fleet) -> list[Finding]:
    found: list[Finding] = []
    if fleet.serves_base and not fleet.base_digest.startswith(fleet.serves_base):
        text = (
            f"the serving fleet runs the backbone {fleet.serves_base:.12}, and this trainer has {fleet.base_digest:.12}: "
            "the adapter could not be served"
        )
        fix = "start the trainer on the fleet's backbone, or correct GRAFT_TRAINER_SERVES_BASE"
        found.append(_finding(Level.ERROR, "base", text, fix))
    if fleet.serves_template and not fleet.template_digest.startswith(fleet.serves_template):
        text = (
            f"rows are rendered with the chat template {fleet.template_digest:.12}, and the fleet's clients use "
            f"{fleet.serves_template:.12}: prompts rendered by them would look foreign to the adapter"
        )
        fix = "send messages instead of rendered prompts, or correct GRAFT_TRAINER_SERVES_TEMPLATE"
        found.append(_warning("template", text, fix))
    return found
