"""`graft drain`: a serving node out of traffic, and back."""

from typing import Annotated

import typer

from graftwork.cli.session import session_of


def drain(
    context: typer.Context,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            min=0,
            max=3600,
            help="Seconds for requests under way to finish; exit 1 if some are left then, or the node was taken back.",
        ),
    ] = 0.0,
    resume: Annotated[bool, typer.Option("--resume", help="Take requests again.")] = False,
) -> None:
    """Take the serving node out of traffic without ending it: new requests are refused, those under way finish."""
    session = session_of(context)
    if resume and wait:
        raise typer.BadParameter("--resume waits for nothing; leave --wait out")
    with session.client() as client:
        answer = client.drain(wait_seconds=wait, resume=resume)
    told = "takes no new requests" if answer.draining else "takes requests again"
    session.show(answer, f"{told}; {answer.running} under way")
    if wait and (answer.running or not answer.draining):  # a script that ends the node next must not
        raise typer.Exit(1)
