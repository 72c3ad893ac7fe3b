"""The seed's decision matrix: which approach suits which case, and whether this case is one of them. Pure."""

from dataclasses import dataclass

from trainer_service.core.recipe_values import NOT_OFFERED, Fleet, Recipe


@dataclass(frozen=True, slots=True)
class Advice:
    """One line of the matrix."""

    scenario: str
    approach: str
    why: str
    applies: bool
    """The data set is of this size. Of lines about serving, which a recipe does not decide: always."""
    followed: bool
    """The recipe does what is advised; of lines about serving: the service can."""
    how: str
    """What to type, or what to do instead."""


def advise(recipe: Recipe, *, rows: int, fleet: Fleet) -> tuple[Advice, ...]:
    """Returns the whole matrix, for a recipe on a data set of `rows` rows."""
    small, large = rows < 5_000, rows > 100_000
    cpu = "; on a CPU the base stays unquantised" if fleet.device == "cpu" else ""
    return (
        Advice(
            "fewer than 5,000 rows, strict budget",
            "QLoRA, rank 8, NF4",
            "least memory, no overfitting, one consumer GPU",
            small,
            recipe.bits == 4 and recipe.rank <= 8,
            f"preset compact{cpu}",
        ),
        Advice(
            "5,000 to 50,000 rows, moderate latency",
            "LoRA on a 16-bit base",
            "more capacity without quantisation noise, stable gradients",
            5_000 <= rows <= 50_000,
            recipe.bits == 16,
            "preset lora",
        ),
        Advice(
            "more than 100,000 rows, highest accuracy",
            "full fine-tuning",
            "the model's whole capacity",
            large,
            False,
            NOT_OFFERED["full"],
        ),
        Advice(
            "answers in real time, below 50 ms",
            "merged weights",
            "no adapter arithmetic while serving",
            True,
            True,
            "graft adapter merge, and serve the folder as a model of its own",
        ),
        Advice(
            "many tenants, frequent switching of tasks",
            "one base, adapters swapped per request",
            "one frozen backbone for all; a further adapter costs next to nothing",
            True,
            True,
            "what graft generate and the serving service do by themselves",
        ),
    )
