"""The options that make a recipe, once for every command that takes them."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from graftwork.v1 import trainer_pb2 as pb

_OPTIONS: dict[str, Any] = {
    "preset": Annotated[str, typer.Option(help="compact, quality, lora or mini; default: chosen for the backbone.")],
    "rank": Annotated[int | None, typer.Option(help="Default: by the number of rows.")],
    "alpha": Annotated[float | None, typer.Option(help="Default: twice the rank.")],
    "rslora": Annotated[bool | None, typer.Option("--rslora/--no-rslora", help="Scale by alpha / sqrt(rank).")],
    "dropout": Annotated[float | None, typer.Option(help="Default: 0.05.")],
    "target": Annotated[
        list[str] | None,
        typer.Option(help="A module to adapt, or attention-qv, attention or all-linear; repeat for several modules."),
    ],
    "bits": Annotated[int | None, typer.Option(help="Of the frozen base: 4 (NF4) or 16.")],
    "compute_dtype": Annotated[str | None, typer.Option(help="bf16, fp16 or fp32; default: the device's best.")],
    "epochs": Annotated[float | None, typer.Option(help="Passes over the rows.")],
    "max_steps": Annotated[int | None, typer.Option(help="Ends earlier than the epochs would.")],
    "patience": Annotated[
        int | None, typer.Option(help="Epochs without a better held-out loss, after which training ends.")
    ],
    "learning_rate": Annotated[float | None, typer.Option("--learning-rate", "--lr", help="The peak of the schedule.")],
    "warmup_ratio": Annotated[float | None, typer.Option(help="Share of the steps before the peak.")],
    "weight_decay": Annotated[float | None, typer.Option()],
    "optimizer": Annotated[
        str | None, typer.Option(help="paged_adamw_8bit (GPU) or adamw; paging helps large adapters only.")
    ],
    "batch_rows": Annotated[int | None, typer.Option(help="Rows per optimizer step.")],
    "max_length": Annotated[int | None, typer.Option(help="Tokens per row; longer rows are cut and counted.")],
    "eval_fraction": Annotated[float | None, typer.Option(help="Share of rows held out.")],
    "seed": Annotated[int | None, typer.Option(help="The same rows and seed give the same adapter.")],
    "checkpointing": Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Less memory, a third more time.")
    ],
}
_FIELDS = {"rslora": "use_rslora", "target": "target_modules", "checkpointing": "gradient_checkpointing"}


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the recipe's options; it gets what was set as one argument `recipe: pb.Recipe`."""
    own = [it for it in inspect.signature(command).parameters.values() if it.name != "recipe"]
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default="" if name == "preset" else None, annotation=annotation
        )
        for name, annotation in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        asked = {_FIELDS.get(name, name): given.pop(name) for name in _OPTIONS}
        command(**given, recipe=pb.Recipe(**asked))

    every = [*(it.replace(kind=inspect.Parameter.KEYWORD_ONLY) for it in own), *options]
    run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]  # what Typer reads
    run.__annotations__ = {it.name: it.annotation for it in every}
    return run
