"""`graft job logs`: a job's history as lines, or what its own process printed."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from graftwork.cli.jobs import JobId, Tenant, full_name
from graftwork.cli.session import session_of
from graftwork.cli.watching import describe, state_name
from graftwork.client import Client
from graftwork.v1 import trainer_pb2 as pb


def logs(
    context: typer.Context,
    job: JobId,
    tenant: Tenant = None,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    worker: Annotated[
        bool, typer.Option("--worker", help="What the job's own process printed instead; operators only.")
    ] = False,
    last_kib: Annotated[int, typer.Option(min=0, help="With --worker: only the end, in KiB; 0 is all.")] = 64,
) -> None:
    """Print a job's history, one line an event."""
    session = session_of(context)
    with session.client() as client:
        name = full_name(session, client, job, tenant)
        if worker:
            for piece in client.read_job_log(name, last_kib << 10):
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            return
        events = client.watch_job(name) if follow_on else told_so_far(client, client.get_job(name))
        if session.as_json:
            session.show(list(events))
            return
        for event in events:
            text = describe(event) or state_name(event.state_changed.state)
            time = event.time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
            session.out.print(f"{event.number:>5}  {time}  {text}", markup=False)


def told_so_far(client: Client, job: pb.Job) -> Iterator[pb.JobEvent]:
    """The job's events up to its newest one as of now; does not wait for more."""
    if not job.last_event:
        return
    events = client.watch_job(job.name)
    for event in events:
        yield event
        if event.number >= job.last_event:
            return
