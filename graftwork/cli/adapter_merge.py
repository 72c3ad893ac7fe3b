"""`graft adapter merge`: an adapter baked into its backbone, as a model of its own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from graftwork.cli.adapters import Tenant
from graftwork.cli.naming import version_name
from graftwork.cli.session import last_id, session_of, table
from graftwork.v1 import trainer_pb2 as pb


def merge(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="adapter, adapter:alias or adapter@version (first characters do).")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder; takes as much room as the backbone.")],
    tenant: Tenant = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Compare the result with the adapter on held-out rows.")
    ] = True,
) -> None:
    """Merge a version into the unquantised backbone: a Hugging Face folder that runs without LoRA, at the base's speed."""
    session = session_of(context)
    owner = session.tenant(tenant)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quiet = session.as_json or not session.err.is_terminal
    with session.client() as client, Progress(*columns, console=session.err, disable=quiet, transient=True) as bar:
        task = bar.add_task(f"merging {model}", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{stage} {model}", completed=done, total=total or None)

        report = client.merge_version(version_name(client, owner, model), folder, evaluate=evaluate, progress=show)
    session.show(report, _figures(report))
    session.note(f"{folder} holds {model} merged into {report.base_model}: load it with transformers or vLLM")


def _figures(report: pb.MergeReport) -> Table:
    size = sum(file.size_bytes for file in report.files)
    rows: list[list[object]] = [
        ["version", last_id(report.version)],
        ["backbone", f"{report.base_model}, weights {report.base_digest[:12]}"],
        ["merged", f"{report.modules} modules, {report.dtype}, {len(report.files)} files, {size:,} bytes"],
        ["lost to rounding", f"{report.max_rounding:.2%} of a module's update at most"],
        ["measured on", report.evaluation],
    ]
    if report.rows:
        rows += [
            [
                "loss",
                f"base {report.base_loss:.4f}, adapter {report.adapter_loss:.4f}, merged {report.merged_loss:.4f}",
            ],
            ["merged to adapter", f"{report.distance:.2g} nats a token; adapter to base: {report.effect:.2g}"],
        ]
    return table(("", ""), rows)
