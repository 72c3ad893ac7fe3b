"""`graft dataset`: what was uploaded, and whether a file is fit to be. `graft train` uploads."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.adapters import Tenant
from graftwork.cli.dry_run import validate_file
from graftwork.cli.findings import has_errors, print_findings, print_report
from graftwork.cli.session import last_id, session_of, table
from graftwork.v1 import common_pb2

app = typer.Typer(no_args_is_help=True, help="Uploaded data sets.")


@app.command(name="list")
def list_datasets(context: typer.Context, tenant: Tenant = None) -> None:
    """List a tenant's data sets."""
    session = session_of(context)
    with session.client() as client:
        found = list(client.list_datasets(session.tenant(tenant)))
    session.show(found, table(_COLUMNS, [_row(item) for item in found]))


@app.command()
def show(context: typer.Context, dataset: str, tenant: Tenant = None) -> None:
    """Show one data set."""
    session = session_of(context)
    with session.client() as client:
        found = client.get_dataset(f"tenants/{session.tenant(tenant)}/datasets/{dataset}")
    session.show(found, table((*_COLUMNS, "sha256"), [[*_row(found), found.sha256]]))
    if not session.as_json:
        print_findings(session, found.findings)


@app.command()
def validate(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="A JSONL or Parquet file, or the id of a stored data set.")],
    max_length: Annotated[int, typer.Option(min=0, help="Tokens per row; default: the recipe's.")] = 0,
    preview: Annotated[int, typer.Option(min=0, max=20, help="Rows to show as the model sees them.")] = 3,
    sample: Annotated[int, typer.Option(min=0, help="Tokenize about so many rows only; 0: all.")] = 0,
    tenant: Tenant = None,
) -> None:
    """Look through a data set: what is wrong, by line, and what is trained on. Stores nothing; exit 1 on errors."""
    session = session_of(context)
    owner = session.tenant(tenant)
    with session.client() as client:
        if Path(data).is_file():
            report = validate_file(
                session, client, owner, Path(data), max_length=max_length, preview=preview, sample=sample
            )
        elif data.startswith("ds-"):
            name = f"tenants/{owner}/datasets/{data}"
            report = client.validate_stored(name, max_length=max_length, preview_rows=preview)
        else:
            raise FileNotFoundError(f"{data} is no file, and no data set's id either (`graft dataset list` has those)")
    session.show(report)
    if not session.as_json:
        print_report(session, report)
        session.note(
            f"{report.rows:,} rows, {report.wrong_rows:,} of them wrong" if report.rows else "no row could be read"
        )
    if has_errors(report.findings):
        raise typer.Exit(1)


@app.command()
def delete(
    context: typer.Context,
    dataset: str,
    reason: Annotated[str, typer.Option(help="Kept with the deletion.")] = "",
    tenant: Tenant = None,
) -> None:
    """Delete a data set; jobs that were admitted with it go on."""
    session = session_of(context)
    with session.client() as client:
        gone = client.delete_dataset(f"tenants/{session.tenant(tenant)}/datasets/{dataset}", reason)
    until = gone.purge_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
    session.show(gone, f"{dataset} is deleted; its bytes are kept until {until}")


_COLUMNS = ("id", "name", "rows", "bytes", "format", "uploaded")


def _row(item: common_pb2.Dataset) -> list[object]:
    kind = common_pb2.DatasetFormat.Name(item.format).removeprefix("DATASET_FORMAT_").lower()
    uploaded = item.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
    return [last_id(item.name), item.display_name, item.rows, item.size_bytes, kind, uploaded]
