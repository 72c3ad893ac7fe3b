"""Starting a job on a stored data set: a form, what the job would take and what the checks say, then the start.

Owns the form. Does not own the recipe's defaults nor its checks (the trainer's): an empty field is left to it.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response

from graftwork.client.errors import RemoteInvalid, RemotePrecondition
from graftwork.console.errors import WrongForm
from graftwork.console.forms import decimal_number, go_to, whole_number
from graftwork.console.pages.alias_moves import DEFAULT_ALIAS
from graftwork.console.rendering import last_id, render
from graftwork.console.visitor import Changing
from graftwork.v1 import common_pb2
from graftwork.v1 import trainer_pb2 as pb

router = APIRouter()
PRESETS = ("compact", "quality", "lora", "mini")
_MOST_EPOCHS, _MOST_STEPS, _MOST_RATE = 1000, 10**6, 10
SOURCES = {
    pb.RecipeSetting.SOURCE_ASKED: "you",
    pb.RecipeSetting.SOURCE_PRESET: "the preset",
    pb.RecipeSetting.SOURCE_AUTOMATIC: "a rule",
    pb.RecipeSetting.SOURCE_DEFAULT: "default",
    pb.RecipeSetting.SOURCE_DEVICE: "the device",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The form as it was filled in; every field is text, and an empty one leaves the choice to the trainer."""

    adapter: str = ""
    alias: str = DEFAULT_ALIAS
    preset: str = ""
    epochs: str = ""
    max_steps: str = ""
    learning_rate: str = ""
    anyway: str = ""

    def recipe(self) -> pb.Recipe:
        """Raises WrongForm for a field that is no number, or none that can be."""
        made = pb.Recipe(preset=self.preset)
        if self.epochs.strip():
            made.epochs = decimal_number("Epochs", self.epochs, most=_MOST_EPOCHS)
        if self.max_steps.strip():
            made.max_steps = whole_number("Steps at most", self.max_steps, least=1, most=_MOST_STEPS)
        if self.learning_rate.strip():
            made.learning_rate = decimal_number("Learning rate", self.learning_rate, most=_MOST_RATE)
        return made

    def query(self) -> str:
        """The fields in an address."""
        return urlencode({name: getattr(self, name) for name in self.__dataclass_fields__})


def _asked(
    adapter: str = "",
    alias: str = DEFAULT_ALIAS,
    preset: str = "",
    epochs: str = "",
    max_steps: str = "",
    learning_rate: str = "",
    anyway: str = "",
) -> Wanted:
    return Wanted(adapter.strip(), alias.strip(), preset, epochs, max_steps, learning_rate, anyway)


@router.get("/tenants/{tenant}/datasets/{dataset}/train")
def plan(
    request: Request, visitor: Changing, tenant: str, dataset: str, wanted: Annotated[Wanted, Depends(_asked)]
) -> Response:
    client, name = visitor.client, f"tenants/{tenant}/datasets/{dataset}"
    found = client.get_dataset(name)
    estimate, problem = None, ""
    if wanted.adapter:
        try:
            estimate = client.estimate_job(tenant, wanted.recipe(), dataset=name)
        except (WrongForm, RemoteInvalid, RemotePrecondition) as error:
            problem = str(error)
    return render(
        request,
        visitor,
        "train.html",
        found=found,
        adapters=[last_id(adapter.name) for adapter in client.list_adapters(tenant)],
        presets=PRESETS,
        sources=SOURCES,
        wanted=wanted,
        estimate=estimate,
        problem=problem,
        ready=estimate is not None and estimate.fits and not has_errors(estimate.recipe.findings),
        once=secrets.token_hex(16),
    )


@router.post("/tenants/{tenant}/datasets/{dataset}/train")
def start(
    visitor: Changing,
    tenant: str,
    dataset: str,
    adapter: Annotated[str, Form()],
    once: Annotated[str, Form()],
    alias: Annotated[str, Form()] = DEFAULT_ALIAS,
    preset: Annotated[str, Form()] = "",
    epochs: Annotated[str, Form()] = "",
    max_steps: Annotated[str, Form()] = "",
    learning_rate: Annotated[str, Form()] = "",
    anyway: Annotated[str, Form()] = "",
) -> Response:
    """`once` is the page's own: the same page sent twice is one job."""
    wanted = _asked(adapter, alias, preset, epochs, max_steps, learning_rate, anyway)
    name = f"tenants/{tenant}/datasets/{dataset}"

    def queue() -> pb.Job:
        asked = pb.CreateJobRequest(
            parent=f"tenants/{tenant}",
            dataset=name,
            adapter_id=wanted.adapter,
            alias=wanted.alias,
            recipe=wanted.recipe(),
            idempotency_key=once,
            publish_anyway=bool(wanted.anyway),
        )
        return visitor.client.create_job(asked)

    job = visitor.attempt("The job is queued; this page follows it.", queue)
    return go_to(f"/{job.name}" if job is not None else f"/{name}/train?{wanted.query()}")


def has_errors(findings: Iterable[common_pb2.Finding]) -> bool:
    """Whether the trainer would refuse."""
    return any(found.level == common_pb2.Finding.LEVEL_ERROR for found in findings)
