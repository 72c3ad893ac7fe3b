"""Data sets: the list, and one with what was found in its rows. No row is shown: nothing hands rows out.

Owns pages that show. Does not own what starts a job on one (`training.py`); data sets come by `graft train` and the SDK.
"""

from collections.abc import Iterable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from graftwork.console.pages.adapters import MAX_TENANTS, owners
from graftwork.console.rendering import render
from graftwork.console.visitor import SignedIn
from graftwork.v1 import common_pb2 as pb

router = APIRouter()


@router.get("/datasets")
def list_datasets(request: Request, visitor: SignedIn, tenant: str = "") -> Response:
    tenants = owners(visitor)
    chosen = [tenant] if tenant else tenants[:MAX_TENANTS]
    found = [item for owner in chosen for item in visitor.client.list_datasets(owner)]
    found.sort(key=lambda item: item.create_time.ToNanoseconds(), reverse=True)
    return render(
        request,
        visitor,
        "datasets.html",
        datasets=found,
        tenants=tenants,
        chosen=tenant,
        left_out=max(0, len(tenants) - MAX_TENANTS) if not tenant else 0,
        warnings=warnings,
        format_name=format_name,
    )


@router.get("/tenants/{tenant}/datasets/{dataset}")
def show_dataset(request: Request, visitor: SignedIn, tenant: str, dataset: str) -> Response:
    found = visitor.client.get_dataset(f"tenants/{tenant}/datasets/{dataset}")
    return render(request, visitor, "dataset.html", found=found, warnings=warnings, format_name=format_name)


def warnings(findings: Iterable[pb.Finding]) -> int:
    """How many of the findings are likely to disappoint; errors keep a data set out, so a stored one has none."""
    return sum(found.level == pb.Finding.LEVEL_WARNING for found in findings)


def format_name(dataset: pb.Dataset) -> str:
    """`jsonl` for DATASET_FORMAT_JSONL."""
    return pb.DatasetFormat.Name(dataset.format).removeprefix("DATASET_FORMAT_").lower()
