"""`graft demo`: shows the whole line at work and checks its own claims."""

import os
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from graftwork.cli.session import Session, session_of, table
from graftwork.cli.watching import state_name
from graftwork.demo.run import DemoResult, DemoView, run_demo
from graftwork.demo.tasks import DEMO_TASKS, DemoTask
from graftwork.v1 import trainer_pb2 as pb


def demo(
    context: typer.Context,
    report: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
) -> None:
    """Train three tenants on tasks the base cannot do, serve them together, check the answers; exit code 1 if a claim fails."""
    session = session_of(context)
    with _bars(session) as bars:
        result = run_demo(session.home, _view(session, bars))
    if report:
        result.report.write(report)
    if not session.as_json:
        _print(session, result)
    session.show(result.report.to_json())
    broken = result.report.broken_claims()
    for claim in broken:
        session.err.print(f"graft: demo: {claim}", markup=False)
    if broken:
        raise typer.Exit(1)


def _bars(session: Session) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=session.err,
        disable=session.as_json,
    )


def _view(session: Session, bars: Progress) -> DemoView:
    tasks: dict[str, TaskID] = {}
    making = threading.Lock()  # answers arrive on many threads; without it the first ones make a bar each

    def bar(name: str, total: int | None) -> TaskID:
        with making:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, figures="")
            return tasks[name]

    def step(title: str) -> None:
        if not session.as_json:
            bars.console.print(f"[bold]{title}[/bold]")

    def event(task: DemoTask, happened: pb.JobEvent) -> None:
        mine = bar(f"{task.tenant}/{task.adapter}", None)
        match happened.WhichOneof("event"):
            case "step_done":
                done = happened.step_done
                bars.update(mine, completed=done.step, total=done.total_steps, figures=f"loss {done.loss:.4f}")
            case "state_changed":
                bars.update(mine, figures=state_name(happened.state_changed.state).lower())

    def asked(total: int) -> None:
        bars.advance(bar("requests", total))

    return DemoView(step, event, asked)


def _print(session: Session, result: DemoResult) -> None:
    report = result.report
    rows = [
        [
            item.tenant,
            item.adapter,
            item.version[:12],
            f"{item.base_exact_match:.0%}",
            f"{item.adapter_exact_match:.0%}",
            f"{item.train_seconds:.0f} s",
            f"{item.cold_first_token_ms:.0f} ms",
            f"{item.warm_first_token_ms:.0f} ms",
        ]
        for item in report.tenants
    ]
    columns = ("tenant", "adapter", "version", "base right", "adapter right", "trained in", "cold token", "warm token")
    session.out.print()
    session.show(None, table(columns, rows, title="Held-out rows answered right to the last character"))
    examples = [
        [
            item.question.task.tenant,
            item.question.adapter or "(base)",
            item.question.prompt.replace("\n", " "),
            item.answer.text.strip(),
        ]
        for item in result.examples
    ]
    session.out.print()
    session.show(None, table(("tenant", "model", "prompt", "answer"), examples, title="One example each"))
    batch = report.mixed_batch
    refused = "refused" if report.foreign_adapter_refused else "ANSWERED"
    session.out.print(
        f"\n{batch.requests} requests at once for {len(DEMO_TASKS)} tenants and the base: "
        f"{batch.wrong_tenant_outputs} answers from a wrong tenant; other tenants' adapters: {refused}"
    )
    steps = ", ".join(f"{name.replace('_', ' ')} {seconds:.0f} s" for name, seconds in report.seconds.items())
    session.out.print(f"{steps}\nTry it yourself: graft --home {os.path.relpath(session.home.root)} up", markup=False)
