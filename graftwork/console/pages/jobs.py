"""Training jobs: the list, one job with its live curves, cancelling it and going on with it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from graftwork.console.forms import Confirmation, confirm, go_to
from graftwork.console.job_events import to_page
from graftwork.console.pages.adapters import owners
from graftwork.console.rendering import job_state, last_id, render
from graftwork.console.streams import Event, event_stream, watch_job
from graftwork.console.visitor import Changing, SignedIn, Visitor
from graftwork.v1 import trainer_pb2 as pb

router = APIRouter()
PAGE_JOBS = 50
_ENDED = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_CANCELLED, pb.JOB_STATE_FAILED, pb.JOB_STATE_GATED)
_RESUMABLE = (pb.JOB_STATE_CANCELLED, pb.JOB_STATE_FAILED)


@router.get("/jobs")
def list_jobs(request: Request, visitor: SignedIn, tenant: str = "", skip: int = 0) -> Response:
    owner = tenant or visitor.tenant or "-"
    skip = max(0, skip)
    found = list(islice(visitor.client.list_jobs(owner), skip, skip + PAGE_JOBS + 1))
    return render(
        request,
        visitor,
        "jobs.html",
        jobs=found[:PAGE_JOBS],
        tenants=owners(visitor),
        chosen=tenant,
        skip=skip,
        page=PAGE_JOBS,
        more=len(found) > PAGE_JOBS,
    )


@router.get("/tenants/{tenant}/jobs/{job}")
def show_job(request: Request, visitor: SignedIn, tenant: str, job: str) -> Response:
    found = visitor.client.get_job(_name(tenant, job))
    return render(
        request, visitor, "job.html", job=found, ended=found.state in _ENDED, resumable=found.state in _RESUMABLE
    )


@router.get("/tenants/{tenant}/jobs/{job}/events")
async def events(
    visitor: SignedIn, tenant: str, job: str, after: int = 0, last_event_id: Annotated[int, Header()] = 0
) -> Response:
    """Events after the last one that the page has: a browser that reconnects says so itself, a script in the address."""
    return event_stream(visitor, _events(visitor, _name(tenant, job), max(after, last_event_id)))


@router.get("/tenants/{tenant}/jobs/{job}/cancel")
def ask_cancel(request: Request, visitor: Changing, tenant: str, job: str) -> Response:
    found = visitor.client.get_job(_name(tenant, job))
    asked = Confirmation(
        title="Cancel this job?",
        facts=[
            ("Adapter", f"{tenant}/{last_id(found.adapter)}"),
            ("State", f"{job_state(found.state).lower()}, step {found.step} of {found.total_steps}"),
            ("Then", "nothing of it is published; it can go on later from its newest checkpoint"),
        ],
        button="Cancel the job",
        back=f"/{found.name}",
        danger=True,
    )
    return confirm(request, visitor, asked)


@router.post("/tenants/{tenant}/jobs/{job}/cancel")
def cancel(visitor: Changing, tenant: str, job: str) -> Response:
    name = _name(tenant, job)
    visitor.attempt("The job is being cancelled.", lambda: visitor.client.cancel_job(name))
    return go_to(f"/{name}")


@router.post("/tenants/{tenant}/jobs/{job}/resume")
def resume(visitor: Changing, tenant: str, job: str) -> Response:
    name = _name(tenant, job)
    found = visitor.attempt("", lambda: visitor.client.resume_job(name))
    if found is not None:
        visitor.say(f"The job goes on from step {found.checkpoint_step}.")
    return go_to(f"/{name}")


async def _events(visitor: Visitor, name: str, after: int) -> AsyncGenerator[Event, None]:
    async with aclosing(watch_job(visitor, name, after)) as watched:
        async for event in watched:
            yield to_page(event)


def _name(tenant: str, job: str) -> str:
    return f"tenants/{tenant}/jobs/{job}"
