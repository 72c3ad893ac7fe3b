"""`graft train` and `graft job`: submit training, watch it, cancel it, go on with it."""

import uuid
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from graftwork.cli.dry_run import dry_run
from graftwork.cli.findings import print_findings
from graftwork.cli.recipe_options import takes_recipe
from graftwork.cli.session import NotOne, Session, last_id, session_of, table
from graftwork.cli.watching import JobView, state_name
from graftwork.client import Client
from graftwork.client.errors import RemoteInvalid
from graftwork.client.plans import refused_rows
from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.auth import OPERATOR_PREFIX
from graftwork.v1 import trainer_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Training jobs.")
Tenant = Annotated[str | None, typer.Option("--tenant", "-t", envvar="GRAFT_TENANT", help="Whose.")]
JobId = Annotated[str, typer.Argument(help="A job's id or full name, from `graft job list`.")]
GOOD_ENDS = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_GATED)


class JobEndedBadly(GraftError):
    """A watched job failed or was cancelled."""

    code = ErrorCode.PRECONDITION


@takes_recipe
def train(
    context: typer.Context,
    recipe: pb.Recipe,
    data: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="JSONL or Parquet: instruction/input/response or messages."),
    ],
    adapter: Annotated[str, typer.Option("--adapter", "-a", help="Name of the adapter to make a version of.")],
    tenant: Tenant = None,
    alias: Annotated[str, typer.Option(help="Moved to the new version when it beats the base.")] = "prod",
    publish_anyway: Annotated[bool, typer.Option(help="Move the alias even if the base is as good.")] = False,
    priority: Annotated[int, typer.Option(help="Among your own waiting jobs, -100 to 100; higher goes first.")] = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Watch the job to its end.")] = True,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; store and train nothing.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="With --dry-run: tokenize about so many rows; 0: all.")] = 5000,
) -> None:
    """Upload a data set, train an adapter on it, publish the result."""
    session = session_of(context)
    owner = session.tenant(tenant)
    with session.client() as client:
        if dry:
            dry_run(session, client, owner, data, recipe, sample=sample)
            return
        dataset = _upload(session, client, owner, data)
        job = client.create_job(
            pb.CreateJobRequest(
                parent=f"tenants/{owner}",
                dataset=dataset,
                adapter_id=adapter,
                alias=alias,
                recipe=recipe,
                idempotency_key=uuid.uuid4().hex,
                publish_anyway=publish_anyway,
                priority=priority,
            )
        )
        session.note(f"job {last_id(job.name)} queued: {describe_recipe(job.recipe)}")
        if wait:
            job = follow(session, client, job.name)
        else:
            session.note(f"watch it with: graft job watch {job.name}")
    session.show(job, _job_table([job]))
    check_end(job, wait)


def _upload(session: Session, client: Client, owner: str, data: Path) -> str:
    with Progress(console=session.err, disable=session.as_json or not session.err.is_terminal, transient=True) as bar:
        task = bar.add_task(f"uploading {data.name}", total=data.stat().st_size)
        try:
            dataset = client.upload_dataset(owner, data, sent=lambda size: bar.advance(task, size))
        except RemoteInvalid as error:
            bar.stop()
            if (report := refused_rows(error)) is not None:
                print_findings(session, report.findings)
            raise
    session.note(f"data set {last_id(dataset.name)}: {dataset.rows} rows")
    return dataset.name


def describe_recipe(recipe: pb.Recipe) -> str:
    """A resolved recipe in one line."""
    return (
        f"preset {recipe.preset}, rank {recipe.rank}, alpha {recipe.alpha:g}, {'+'.join(recipe.target_modules)}, "
        f"{recipe.bits} bits, lr {recipe.learning_rate:g}, {recipe.batch_rows} rows a step, {recipe.epochs:g} epochs"
    )


def follow(session: Session, client: Client, name: str, after: int = 0) -> pb.Job:
    """Watches a job to its end; Ctrl-C stops watching, not the job."""
    with JobView(session, last_id(name)[:8]) as view:
        try:
            view.show(client.watch_job(name, after))
        except KeyboardInterrupt:
            session.note(f"the job goes on; watch it again with: graft job watch {name}")
    return client.get_job(name)


def check_end(job: pb.Job, waited: bool = True) -> None:
    """Raises JobEndedBadly for a job that failed or was cancelled while we waited for it."""
    if waited and job.state in (pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED):
        raise JobEndedBadly(f"job {job.name} ended {state_name(job.state)}: {job.message or 'no reason given'}")


@app.command(name="list")
def list_jobs(context: typer.Context, tenant: Tenant = None) -> None:
    """List jobs, newest first; an operator without --tenant sees all."""
    session = session_of(context)
    with session.client() as client:
        key = session.api_key() or ""
        owner = tenant or ("-" if key.startswith(OPERATOR_PREFIX) else session.tenant(None))
        jobs = list(client.list_jobs(owner))
    session.show(jobs, _job_table(jobs))


@app.command()
def show(context: typer.Context, job: JobId, tenant: Tenant = None) -> None:
    """Show one job."""
    session = session_of(context)
    with session.client() as client:
        found = client.get_job(full_name(session, client, job, tenant))
    rows: list[list[object]] = [
        ["job", found.name],
        ["adapter", found.adapter],
        ["state", state_name(found.state)],
        ["message", found.message or "-"],
        ["step", f"{found.step}/{found.total_steps}"],
        ["loss on held-out rows", f"base {_loss(found.base_eval_loss)}, adapter {_loss(found.eval_loss)}"],
        ["version", found.version or "-"],
        ["probe", _probe(found)],
        ["attempt", found.attempt],
        ["priority", found.priority],
        ["checkpoint", f"step {found.checkpoint_step}" if found.checkpoint_step else "-"],
        ["recipe", describe_recipe(found.recipe)],
    ]
    session.show(found, table(("", ""), rows))


@app.command()
def watch(
    context: typer.Context,
    job: JobId,
    tenant: Tenant = None,
    after: Annotated[int, typer.Option(min=0, help="Number of the last event that you have.")] = 0,
) -> None:
    """Follow a job's events from the beginning, or from a number."""
    session = session_of(context)
    with session.client() as client:
        found = follow(session, client, full_name(session, client, job, tenant), after)
    session.show(found, _job_table([found]))
    check_end(found, waited=True)


@app.command()
def cancel(context: typer.Context, job: JobId, tenant: Tenant = None) -> None:
    """Stop a job; nothing of it is published."""
    session = session_of(context)
    with session.client() as client:
        found = client.cancel_job(full_name(session, client, job, tenant))
    session.show(found, _job_table([found]))


@app.command()
def resume(
    context: typer.Context,
    job: JobId,
    tenant: Tenant = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Watch the job to its end.")] = True,
) -> None:
    """Go on with a job that failed or was cancelled, from its newest checkpoint."""
    session = session_of(context)
    with session.client() as client:
        before = client.get_job(full_name(session, client, job, tenant))
        found = client.resume_job(before.name)
        session.note(f"job {last_id(found.name)} goes on from step {found.checkpoint_step}")
        if wait:
            found = follow(session, client, found.name, before.last_event)
    session.show(found, _job_table([found]))
    check_end(found, wait)


def full_name(session: Session, client: Client, job: str, tenant: str | None) -> str:
    """A job's full name: as given, or found by its id among the jobs that the caller may see."""
    if job.startswith("tenants/"):
        return job
    key = session.api_key() or ""
    if tenant or not key.startswith(OPERATOR_PREFIX):
        return f"tenants/{session.tenant(tenant)}/jobs/{job}"
    matches = [item.name for item in client.list_jobs("-") if last_id(item.name).startswith(job.lower())]
    if len(matches) != 1:
        raise NotOne(f"{len(matches)} jobs have an id that starts with {job}; see `graft job list`")
    return matches[0]


def _probe(job: pb.Job) -> str:
    outcome = pb.ProbeOutcome.Name(job.probe_outcome).removeprefix("PROBE_OUTCOME_").lower()
    return "-" if not job.probe_outcome else f"{outcome}: {job.probe_message}"


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if loss else "-"  # 0 = not evaluated yet


def _job_table(jobs: list[pb.Job]) -> Table:
    rows = [
        [
            last_id(job.name),
            job.name.split("/")[1],
            last_id(job.adapter),
            state_name(job.state),
            f"{job.step}/{job.total_steps}",
            _loss(job.base_eval_loss),
            _loss(job.eval_loss),
            job.version[:12] or "-",
        ]
        for job in jobs
    ]
    return table(("job", "tenant", "adapter", "state", "step", "base loss", "loss", "version"), rows)
