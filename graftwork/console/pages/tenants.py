"""Tenants: who is served, with which limits, and by which keys.

Owns the pages. Does not own what is allowed: the registry refuses what a key may not do.
"""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from graftwork.client import Client
from graftwork.console.forms import Confirmation, confirm, go_to, whole_number
from graftwork.console.rendering import render
from graftwork.console.visitor import Changing, Operating, SignedIn
from graftwork.v1 import registry_pb2 as pb

router = APIRouter()
LIMITS: tuple[tuple[str, str, str], ...] = (
    ("requests_per_minute", "Requests a minute", "Requests/min"),
    ("tokens_per_minute", "Tokens a minute", "Tokens/min"),
    ("concurrency", "Requests at once", "At once"),
    ("queue_length", "Requests that wait", "Waiting"),
    ("max_running_jobs", "Running jobs", "Jobs run"),
    ("max_queued_jobs", "Queued jobs", "Jobs queued"),
)
"""Fields of TenantLimits, what they are called, and at the head of a column; 0 is unlimited."""
_MAX_WEIGHT = 1000


@router.get("/tenants")
def list_tenants(request: Request, visitor: SignedIn) -> Response:
    if visitor.tenant:
        return go_to(f"/tenants/{visitor.tenant}")
    return render(request, visitor, "tenants.html", tenants=list(visitor.client.list_tenants()), limits=LIMITS)


@router.post("/tenants")
def create_tenant(visitor: Operating, tenant: Annotated[str, Form()] = "") -> Response:
    made = visitor.attempt("", lambda: visitor.client.create_tenant(tenant.strip()))
    if made is None:
        return go_to("/tenants")
    _issue_key(visitor, tenant.strip(), "first key")
    return go_to(f"/{made.name}")


@router.get("/tenants/{tenant}")
def show_tenant(request: Request, visitor: SignedIn, tenant: str) -> Response:
    client = visitor.client
    return render(
        request,
        visitor,
        "tenant.html",
        tenant=client.get_tenant(tenant),
        keys=client.list_keys(tenant),
        adapters=list(client.list_adapters(tenant)),
        limits=LIMITS,
        max_weight=_MAX_WEIGHT,
    )


@router.post("/tenants/{tenant}/limits")
async def set_limits(request: Request, visitor: Operating, tenant: str) -> Response:
    form = {name: str(value) for name, value in (await request.form()).items()}

    def change() -> pb.Tenant:
        limits = {name: whole_number(label, form.get(name) or "0") for name, label, _ in LIMITS}
        asked = pb.UpdateTenantRequest(
            name=f"tenants/{tenant}",
            weight=whole_number("Weight", form.get("weight", ""), least=1, most=_MAX_WEIGHT),
            limits=pb.TenantLimits(**limits),
            expected_number=whole_number("Record", form.get("expected", "")),
        )
        return visitor.client.update_tenant(asked)

    await visitor.attempt_aside("Weight and limits are set; serving follows within seconds.", change)
    return go_to(f"/tenants/{tenant}")


@router.get("/tenants/{tenant}/disable")
def ask_disable(request: Request, visitor: Operating, tenant: str) -> Response:
    found = visitor.client.get_tenant(tenant)
    asked = Confirmation(
        title=f"Enable {tenant} again?" if found.disabled else f"Disable {tenant}?",
        facts=[
            ("Tenant", tenant),
            ("Then", "its keys are taken again" if found.disabled else "every service refuses its keys; data stays"),
        ],
        button="Enable" if found.disabled else "Disable",
        back=f"/tenants/{tenant}",
        hidden={"disabled": "no" if found.disabled else "yes", "expected": str(found.number)},
        danger=not found.disabled,
    )
    return confirm(request, visitor, asked)


@router.post("/tenants/{tenant}/disable")
def disable(
    visitor: Operating, tenant: str, disabled: Annotated[str, Form()], expected: Annotated[str, Form()]
) -> Response:
    off = disabled == "yes"

    def change() -> pb.Tenant:
        number = whole_number("Record", expected)
        asked = pb.UpdateTenantRequest(name=f"tenants/{tenant}", disabled=off, expected_number=number)
        return visitor.client.update_tenant(asked)

    visitor.attempt(f"{tenant} is {'disabled' if off else 'enabled'}.", change)
    return go_to(f"/tenants/{tenant}")


@router.post("/tenants/{tenant}/keys")
def create_key(visitor: Changing, tenant: str, display_name: Annotated[str, Form()] = "") -> Response:
    _issue_key(visitor, tenant, display_name.strip())
    return go_to(f"/tenants/{tenant}")


@router.get("/tenants/{tenant}/keys/{key}/revoke")
def ask_revoke(request: Request, visitor: Changing, tenant: str, key: str) -> Response:
    named = _key_name(visitor.client, tenant, key)
    own = visitor.principal.key_id == key
    asked = Confirmation(
        title="Revoke this key?",
        facts=[
            ("Tenant", tenant),
            ("Key", f"{key} {named}"),
            (
                "Then",
                "whoever uses it is refused" + (", you too: it is the key that you signed in with" if own else ""),
            ),
        ],
        button="Revoke",
        back=f"/tenants/{tenant}",
        danger=True,
    )
    return confirm(request, visitor, asked)


@router.post("/tenants/{tenant}/keys/{key}/revoke")
def revoke(visitor: Changing, tenant: str, key: str) -> Response:
    visitor.attempt(f"Key {key} is revoked.", lambda: visitor.client.revoke_key(tenant, key))
    return go_to(f"/tenants/{tenant}")


def _issue_key(visitor: Changing, tenant: str, display_name: str) -> None:
    issued = visitor.attempt("", lambda: visitor.client.create_key(tenant, display_name))
    if issued is not None:
        visitor.say(f"A key of {tenant}. It is shown this once: keep it now.", secret=issued.secret)


def _key_name(client: Client, tenant: str, key: str) -> str:
    return next((f"({found.display_name})" for found in client.list_keys(tenant) if found.id == key), "")
