"""Warnings about recipes that work but are likely to disappoint. Pure; each rule is one of the seed's pitfalls."""

from trainer_service.core.events import Notice, NoticeLevel
from trainer_service.core.recipe import ALL_LINEAR, FUSED_ATTENTION, Recipe, rank_for_rows


def lint(recipe: Recipe, *, rows: int) -> list[Notice]:
    """Returns the warnings for a resolved recipe on a data set of `rows` rows."""
    train_rows, _ = recipe.split(rows)
    steps = recipe.total_steps(train_rows)
    ratio = recipe.alpha / recipe.rank
    advised = rank_for_rows(rows)
    found: list[str] = []
    if not {"q_proj", "v_proj", ALL_LINEAR, *FUSED_ATTENTION} & {
        target.rsplit(".", 1)[-1] for target in recipe.target_modules
    }:
        found.append("neither q_proj nor v_proj is a target: the adapter cannot redirect attention; add both")
    if recipe.dropout > 0.1:
        found.append(f"dropout {recipe.dropout:g} is above 0.1: adapters underfit; start with 0.05")
    if recipe.rank > advised:
        found.append(f"rank {recipe.rank} is high for {rows} rows: it may memorise them; {advised} is advised")
    if not 0.5 <= ratio <= 4:
        found.append(f"alpha / rank = {ratio:g} is outside 0.5..4; 2 is stable for most tasks")
    if steps < 100:
        found.append(f"only {steps} optimizer steps: the adapter may not have learned yet; raise epochs")
    return [Notice(level=NoticeLevel.WARNING, message=text) for text in found]
