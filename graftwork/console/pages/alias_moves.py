"""Moving an alias: promote a version, roll back; each is asked about first, and refused if somebody moved it meanwhile."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from graftwork.console.errors import WrongForm
from graftwork.console.forms import Confirmation, confirm, go_to, whole_number
from graftwork.console.lineage import before
from graftwork.console.pages.adapters import digests, target_text
from graftwork.console.rendering import last_id, render
from graftwork.console.visitor import Changing, Visitor
from graftwork.v1 import registry_pb2 as pb

router = APIRouter()
_NEW = "new"
DEFAULT_ALIAS = "prod"


@router.get("/tenants/{tenant}/adapters/{adapter}/versions/{version}/promote")
def ask_promote(
    request: Request, visitor: Changing, tenant: str, adapter: str, version: str, alias: str = DEFAULT_ALIAS
) -> Response:
    client = visitor.client
    parent = f"tenants/{tenant}/adapters/{adapter}"
    found = client.get_adapter(parent)
    current = {
        last_id(item.name): None if item.split else client.get_version(f"{parent}/versions/{item.version}")
        for item in found.aliases
    }
    return render(
        request,
        visitor,
        "promote.html",
        version=client.get_version(f"{parent}/versions/{version}"),
        aliases=found.aliases,
        current=current,
        chosen=alias,
        default_alias=DEFAULT_ALIAS,
        target_text=target_text,
    )


@router.post("/tenants/{tenant}/adapters/{adapter}/versions/{version}/promote")
def promote(
    visitor: Changing,
    tenant: str,
    adapter: str,
    version: str,
    alias: Annotated[str, Form()],
    new_alias: Annotated[str, Form()] = "",
    reason: Annotated[str, Form()] = "",
) -> Response:
    parent = f"tenants/{tenant}/adapters/{adapter}"

    def move() -> pb.Alias:
        name, expected = _chosen(alias, new_alias)
        return visitor.client.set_alias(f"{parent}/aliases/{name}", version, expected, reason.strip())

    _told(visitor, visitor.attempt("", move))
    return go_to(f"/{parent}")


@router.get("/tenants/{tenant}/adapters/{adapter}/aliases/{alias}/rollback")
def ask_rollback(request: Request, visitor: Changing, tenant: str, adapter: str, alias: str) -> Response:
    client = visitor.client
    parent = f"tenants/{tenant}/adapters/{adapter}"
    history = client.alias_history(f"{parent}/aliases/{alias}")
    earlier = before(history, digests(client, parent))
    if earlier is None:
        visitor.say(f"{alias} has named no other version that still exists: there is nothing to go back to.", bad=True)
        return go_to(f"/{parent}/aliases/{alias}")
    asked = Confirmation(
        title=f"Roll {adapter}:{alias} back?",
        facts=[
            ("Now", target_text(history[0])),
            ("Then", target_text(earlier)),
            (
                "From record",
                f"{earlier.number}, set by {earlier.set_by}" + (f": {earlier.reason}" if earlier.reason else ""),
            ),
            ("Requests", "new ones take it at once; those in flight finish on the version that they began with"),
        ],
        button="Roll back",
        back=f"/{parent}/aliases/{alias}",
        hidden={"expected": str(history[0].number)},
        asks_reason=True,
    )
    return confirm(request, visitor, asked)


@router.post("/tenants/{tenant}/adapters/{adapter}/aliases/{alias}/rollback")
def roll_back(
    visitor: Changing,
    tenant: str,
    adapter: str,
    alias: str,
    expected: Annotated[str, Form()],
    reason: Annotated[str, Form()] = "",
) -> Response:
    name = f"tenants/{tenant}/adapters/{adapter}/aliases/{alias}"

    def move() -> pb.Alias:
        return visitor.client.roll_back_alias(name, whole_number("Record", expected), reason.strip())

    _told(visitor, visitor.attempt("", move))
    return go_to(f"/{name}")


def _told(visitor: Visitor, moved: pb.Alias | None) -> None:
    if moved is not None:
        visitor.say(f"{last_id(moved.name)} is {target_text(moved)} now (record {moved.number}).")


def _chosen(choice: str, new_alias: str) -> tuple[str, int]:
    """Reads which alias to move, and the number that the visitor saw it at. Raises WrongForm."""
    if choice == _NEW:
        if not new_alias.strip():
            raise WrongForm("name the new alias")
        return new_alias.strip(), 0
    name, _, number = choice.partition(":")
    return name, whole_number("Record", number)
