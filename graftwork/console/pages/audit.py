"""The audit log: who changed what, from what to what, and who was refused."""

from itertools import islice

from fastapi import APIRouter, Request
from fastapi.responses import Response

from graftwork.console.pages.adapters import owners
from graftwork.console.rendering import render
from graftwork.console.visitor import SignedIn
from graftwork.v1 import registry_pb2 as pb

router = APIRouter()
MAX_ENTRIES = 200
"""That one page shows, newest first; the fields above narrow them down, and `graft audit` lists any number."""
OUTCOMES = ("ok", "forbidden", "not_found", "conflict", "invalid", "precondition", "cancelled", "unknown", "damaged")


@router.get("/audit")
def show_audit(
    request: Request, visitor: SignedIn, tenant: str = "", action: str = "", actor: str = "", outcome: str = ""
) -> Response:
    owner = tenant or visitor.tenant
    asked = pb.ListAuditEntriesRequest(
        parent=f"tenants/{owner}" if owner else "",
        action=action.strip(),
        actor=actor.strip(),
        outcome=outcome,
        page_size=MAX_ENTRIES + 1,
    )
    entries = list(islice(visitor.client.list_audit(asked), MAX_ENTRIES + 1))
    return render(
        request,
        visitor,
        "audit.html",
        entries=entries[:MAX_ENTRIES],
        more=len(entries) > MAX_ENTRIES,
        tenants=owners(visitor),
        outcomes=OUTCOMES,
        chosen={"tenant": tenant, "action": action, "actor": actor, "outcome": outcome},
    )
