"""Adapters: their versions and aliases, one version in full, and one alias's history.

Owns pages that show. Does not own what moves an alias (`alias_moves.py`).
"""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from graftwork.client import Client
from graftwork.console.forms import go_to
from graftwork.console.lineage import before, pointing, shares
from graftwork.console.rendering import last_id, render
from graftwork.console.visitor import Changing, SignedIn, Visitor
from graftwork.v1 import registry_pb2 as pb

router = APIRouter()
MAX_TENANTS = 50
"""Whose adapters one page shows; an operator of more chooses one."""
MAX_VERSIONS = 200
"""That one page shows, newest first."""


@router.get("/adapters")
def list_adapters(request: Request, visitor: SignedIn, tenant: str = "") -> Response:
    client = visitor.client
    tenants = owners(visitor)
    chosen = [tenant] if tenant else tenants[:MAX_TENANTS]
    found = [adapter for owner in chosen for adapter in client.list_adapters(owner)]
    return render(
        request,
        visitor,
        "adapters.html",
        adapters=found,
        tenants=tenants,
        chosen=tenant,
        left_out=max(0, len(tenants) - MAX_TENANTS) if not tenant else 0,
        shares=shares,
    )


@router.get("/tenants/{tenant}/adapters/{adapter}")
def show_adapter(request: Request, visitor: SignedIn, tenant: str, adapter: str) -> Response:
    client = visitor.client
    name = f"tenants/{tenant}/adapters/{adapter}"
    found = client.get_adapter(name)
    versions = newest_first(client, name)
    return render(
        request,
        visitor,
        "adapter.html",
        adapter=found,
        versions=versions[:MAX_VERSIONS],
        more=len(versions) > MAX_VERSIONS,
        pointing=pointing(found.aliases),
        shares=shares,
    )


@router.get("/tenants/{tenant}/adapters/{adapter}/versions/{version}")
def show_version(request: Request, visitor: SignedIn, tenant: str, adapter: str, version: str) -> Response:
    client = visitor.client
    parent = f"tenants/{tenant}/adapters/{adapter}"
    found = client.get_version(f"{parent}/versions/{version}")
    others = [item.name for item in newest_first(client, parent)[:MAX_VERSIONS] if item.name != found.name]
    return render(
        request,
        visitor,
        "version.html",
        found=found,
        others=others,
        pointing=pointing(client.get_adapter(parent).aliases).get(last_id(found.name), []),
    )


@router.post("/tenants/{tenant}/adapters/{adapter}/versions/{version}/verify")
def verify(visitor: SignedIn, tenant: str, adapter: str, version: str) -> Response:
    name = f"tenants/{tenant}/adapters/{adapter}/versions/{version}"
    checked = visitor.attempt("", lambda: visitor.client.verify_version(name))
    if checked is not None:
        broken = [f"{check.file.path}: {check.problem}" for check in checked.files if check.problem]
        good = f"All {len(checked.files)} stored files are what the manifest names, to the last byte."
        visitor.say("; ".join(broken) or good, bad=bool(broken))
    return go_to(f"/{name}")


@router.get("/tenants/{tenant}/adapters/{adapter}/versions/{version}/compare")
def compare(request: Request, visitor: SignedIn, tenant: str, adapter: str, version: str, other: str = "") -> Response:
    parent = f"tenants/{tenant}/adapters/{adapter}/versions"
    found = visitor.client.diff_versions(f"{parent}/{version}", f"{parent}/{other}")
    return render(request, visitor, "compare.html", found=found)


@router.get("/tenants/{tenant}/adapters/{adapter}/aliases/{alias}")
def show_alias(request: Request, visitor: SignedIn, tenant: str, adapter: str, alias: str) -> Response:
    client = visitor.client
    parent = f"tenants/{tenant}/adapters/{adapter}"
    history = client.alias_history(f"{parent}/aliases/{alias}")
    return render(
        request,
        visitor,
        "alias.html",
        name=f"{parent}/aliases/{alias}",
        parent=parent,
        history=history,
        before=before(history, digests(client, parent)),
        shares=shares,
    )


@router.post("/tenants/{tenant}/adapters/{adapter}/aliases/{alias}/route")
def set_route(visitor: Changing, tenant: str, adapter: str, alias: str, route: Annotated[str, Form()]) -> Response:
    name = f"tenants/{tenant}/adapters/{adapter}/aliases/{alias}"
    visitor.attempt(
        f"Requests of {alias} are served {route}.",
        lambda: visitor.client.set_alias_policy(name, route, reason="console"),
    )
    return go_to(f"/{name}")


def newest_first(client: Client, adapter: str) -> list[pb.Version]:
    """Returns all versions of an adapter; the registry lists them by digest, which says nothing about age."""
    return sorted(client.list_versions(adapter), key=lambda version: version.create_time.ToNanoseconds(), reverse=True)


def digests(client: Client, adapter: str) -> list[str]:
    """Returns the digests of an adapter's versions."""
    return [last_id(version.name) for version in client.list_versions(adapter)]


def owners(visitor: Visitor) -> list[str]:
    """Returns the tenants whose things the visitor may see."""
    if visitor.tenant:
        return [visitor.tenant]
    return [last_id(tenant.name) for tenant in visitor.client.list_tenants()]


def target_text(alias: pb.Alias) -> str:
    """Where an alias points, in words."""
    aims = shares(alias)
    if not aims:
        return "nothing"
    return ", ".join(
        share.version[:12] if share.percent == 100 else f"{share.version[:12]} ({share.percent:.0f} %)"
        for share in aims
    )
