"""`graft recipe`: what a recipe would be, before anything is uploaded."""

from typing import Annotated

import typer
from rich.text import Text

from graftwork.cli.adapters import Tenant
from graftwork.cli.findings import print_findings
from graftwork.cli.recipe_options import takes_recipe
from graftwork.cli.session import Session, session_of, table
from graftwork.v1 import trainer_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Recipes, resolved and explained.")


@app.callback()
def recipes() -> None:
    """Recipes, resolved and explained."""


@app.command()
@takes_recipe
def show(
    context: typer.Context,
    recipe: pb.Recipe,
    rows: Annotated[int, typer.Option(min=2, help="Of the data set, held-out ones included.")] = 1000,
    tenant: Tenant = None,
) -> None:
    """Show how a recipe is filled in for a number of rows, and which rule sets each value."""
    session = session_of(context)
    with session.client() as client:
        explained = client.explain_recipe(session.tenant_or_none(tenant), recipe, rows)
    session.show(explained)
    print_explanation(session, explained)


def print_explanation(session: Session, explained: pb.RecipeExplanation) -> None:
    """Prints settings, findings and the advice that fits; nothing with --json."""
    if session.as_json:
        return
    settings = [[it.name, it.value, source_name(it.source), it.reason] for it in explained.settings]
    session.show_table(table(("setting", "value", "set by", "why"), settings))
    print_findings(session, explained.findings)
    advice = [
        [it.scenario, it.approach, it.why, Text("yes", "green") if it.followed else Text("no", "yellow"), it.how]
        for it in explained.advice
        if it.applies
    ]
    session.say(Text(f"\nWhat suits this size, and how it is served (device: {explained.device})", "bold"))
    session.show_table(table(("case", "approach", "because", "followed", "how"), advice))


def source_name(source: pb.RecipeSetting.Source) -> str:
    """In words: what set a value."""
    return {
        pb.RecipeSetting.SOURCE_ASKED: "you",
        pb.RecipeSetting.SOURCE_PRESET: "preset",
        pb.RecipeSetting.SOURCE_AUTOMATIC: "automatic rule",
        pb.RecipeSetting.SOURCE_DEFAULT: "default",
        pb.RecipeSetting.SOURCE_DEVICE: "device",
    }.get(source, "?")
