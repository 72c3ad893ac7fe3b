"""The front page: are the services well, what trains now, what is there."""

from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from graftwork.client.channel import Channel
from graftwork.client.errors import RemoteUnauthenticated
from graftwork.console.rendering import render
from graftwork.console.visitor import SignedIn
from graftwork.errors import GraftError

router = APIRouter()
_JOBS = 8
_ALIVE_S = 1.0
Answer = TypeVar("Answer")


@router.get("/", response_class=HTMLResponse)
def overview(request: Request, visitor: SignedIn) -> HTMLResponse:
    client = visitor.client
    trainer, trainer_problem = _asked(client.trainer, client.trainer_info)
    serving, serving_problem = _asked(client.serving, client.serving_info)
    owner = visitor.tenant or "-"
    jobs, _ = _asked(client.trainer, lambda: list(islice(client.list_jobs(owner), _JOBS)))
    tenants, _ = _asked(
        client.trainer,
        lambda: list(client.list_tenants()) if visitor.oversees else [client.get_tenant(owner)],
    )
    return render(
        request,
        visitor,
        "overview.html",
        trainer=trainer,
        trainer_problem=trainer_problem,
        serving=serving,
        serving_problem=serving_problem,
        jobs=jobs or [],
        tenants=tenants or [],
    )


def _asked(channel: Channel, call: Callable[[], Answer]) -> tuple[Answer | None, str]:
    """Returns the answer, or why there is none: the page shows what it can while a service is away."""
    if not channel.is_serving(_ALIVE_S):
        return None, "no answer; `graft status` and its log say more"
    try:
        return call(), ""
    except RemoteUnauthenticated:
        raise
    except GraftError as error:
        return None, str(error)
