"""`graft dataset`: what was uploaded. `graft train` uploads."""

from typing import Annotated

import typer

from graftwork.cli.adapters import Tenant
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
