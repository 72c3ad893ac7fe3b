"""`graft train --dry-run`: the data looked through, the recipe explained, what the job would take. Nothing is stored."""

from pathlib import Path

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from graftwork.cli.findings import has_errors, print_report
from graftwork.cli.recipes import print_explanation
from graftwork.cli.session import Session, table
from graftwork.client import Client
from graftwork.v1 import trainer_pb2 as pb


def validate_file(
    session: Session, client: Client, tenant: str, file: Path, *, max_length: int = 0, preview: int = 0, sample: int = 0
) -> pb.DatasetReport:
    """Looks a file through with progress bars for sending and for looking."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=session.err,
        disable=session.as_json or not session.err.is_terminal,
        transient=True,
    )
    with bar:
        sending = bar.add_task(f"sending {file.name}", total=file.stat().st_size)
        looking = bar.add_task("looking through it", total=None)
        return client.validate_dataset(
            tenant,
            file,
            max_length=max_length,
            preview_rows=preview,
            sample_rows=sample,
            sent=lambda size: bar.advance(sending, size),
            looked=lambda done, total: bar.update(looking, completed=done, total=total),
        )


def dry_run(session: Session, client: Client, tenant: str, file: Path, recipe: pb.Recipe, *, sample: int) -> None:
    """Shows what `graft train` would do with a file; exit 1 when it would be refused."""
    resolved = client.explain_recipe(tenant, recipe, rows=1000).recipe
    report = validate_file(session, client, tenant, file, max_length=resolved.max_length, preview=1, sample=sample)
    refused = has_errors(report.findings)
    estimate = None
    if report.figures.rows >= 2 and not refused:
        estimate = client.estimate_job(tenant, recipe, figures=report.figures)
        refused = not estimate.fits or has_errors(estimate.recipe.findings)
    session.show({"data": report, **({"estimate": estimate} if estimate else {}), "refused": refused})
    if not session.as_json:
        print_report(session, report)
        if estimate is not None:
            print_explanation(session, estimate.recipe)
            print_estimate(session, estimate)
        end = "the job would be refused" if refused else "nothing was stored; leave --dry-run out to train"
        session.note(end)
    if refused:
        raise typer.Exit(1)


def print_estimate(session: Session, estimate: pb.JobEstimate) -> None:
    """Prints what a job would take."""
    memory = estimate.memory
    parts = (
        f"weights {_size(memory.weights)}, adapter and optimizer {_size(memory.adapter)}, "
        f"activations {_size(memory.activations)}, working {_size(memory.working)}, overhead {_size(memory.overhead)}"
    )
    have = f" of {_size(memory.device)}" if memory.device else ""
    speed = (
        "measured on this device" if estimate.measured_speed else "a guess, within a factor of 4: no job has run here"
    )
    rows: list[list[object]] = [
        ["rows", f"{estimate.train_rows:,} to train on, {estimate.held_out_rows:,} held out"],
        ["steps", f"{estimate.steps:,}"],
        ["tokens in all epochs", f"{estimate.tokens:,}"],
        ["trainable parameters", f"{estimate.trainable_parameters:,}"],
        ["adapter", _size(estimate.adapter_bytes)],
        ["peak memory", f"{_size(memory.peak)}{have}, {estimate.micro_batch_tokens} tokens a pass"],
        ["", parts],
        ["time", f"{duration(estimate.seconds)} ({estimate.flops_per_second / 1e9:,.0f} GFLOP/s, {speed})"],
    ]
    session.say(Text("\nWhat the job would take", "bold"))
    session.show_table(table(("", ""), rows))
    if not estimate.fits:
        session.say(Text(f"It does not fit; what would: {', or '.join(estimate.remedies)}", "bold red"))


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s`, `41 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{seconds:.0f} s"
