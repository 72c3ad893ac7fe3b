"""Why a recipe is as it is: the result, and the call that gives it."""

from dataclasses import dataclass
from enum import StrEnum

from graftwork.sdk.calls import Api, Call
from graftwork.sdk.datasets import Finding
from graftwork.sdk.reading import read_enum, read_fields
from graftwork.sdk.recipe import Recipe
from graftwork.v1 import trainer_pb2 as pb


class SettingSource(StrEnum):
    """What set a recipe's value."""

    UNSPECIFIED = "unspecified"
    ASKED = "asked"
    PRESET = "preset"
    AUTOMATIC = "automatic"
    """A rule over rows, rank or backbone."""
    DEFAULT = "default"
    """The recipe's value, whatever the preset."""
    DEVICE = "device"
    """The device made it replace the recipe's."""


@dataclass(frozen=True, slots=True)
class RecipeSetting:
    """One value of a recipe, as text, what set it and why."""

    name: str
    value: str
    source: SettingSource
    reason: str

    @classmethod
    def of(cls, message: pb.RecipeSetting) -> "RecipeSetting":
        source = read_enum(SettingSource, pb.RecipeSetting.Source, message.source, "SOURCE_")
        return cls(message.name, message.value, source, message.reason)


@dataclass(frozen=True, slots=True)
class RecipeAdvice:
    """Which approach suits which case.

    Attributes:
        scenario, approach, why: the case, what suits it, because.
        applies: the data set is of this size; of cases of serving: always.
        followed: the recipe does so; of cases of serving: the service can. how: by which settings.
    """

    scenario: str
    approach: str
    why: str
    applies: bool
    followed: bool
    how: str

    @classmethod
    def of(cls, message: pb.RecipeAdvice) -> "RecipeAdvice":
        return cls(**read_fields(message, "scenario approach why applies followed how"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeExplanation:
    """A recipe as it would be filled in.

    Attributes:
        recipe: every field set. settings: the same, each with what set it.
        findings: those of level ERROR are what a job would be refused for.
        advice: which approach suits which case.
        device: that the recipe was resolved for.
    """

    recipe: Recipe
    settings: tuple[RecipeSetting, ...]
    findings: tuple[Finding, ...]
    advice: tuple[RecipeAdvice, ...]
    device: str

    @classmethod
    def of(cls, message: pb.RecipeExplanation) -> "RecipeExplanation":
        return cls(
            recipe=Recipe.of(message.recipe),
            settings=tuple(map(RecipeSetting.of, message.settings)),
            findings=tuple(map(Finding.of, message.findings)),
            advice=tuple(map(RecipeAdvice.of, message.advice)),
            device=message.device,
        )


def explain_recipe(parent: str, recipe: Recipe, rows: int) -> Call[RecipeExplanation]:
    request = pb.ExplainRecipeRequest(parent=parent, recipe=recipe.message(), rows=rows)
    return Call(Api.TRAINER, "ExplainRecipe", request, RecipeExplanation.of)
