"""The trainer's calls that look ahead: is this data set fit, what would a recipe be, what would a job take. Mixed into `Client`.

Nothing of these is stored by the service, so all but the streams of a file may be repeated.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from graftwork.client.channel import Channel
from graftwork.client.errors import RemoteError, RemoteInternal
from graftwork.client.registry import CHUNK_BYTES, UPLOAD_TIMEOUT_S, tenant_name
from graftwork.rpc.status import FINDINGS_KEY
from graftwork.v1 import common_pb2, trainer_pb2, trainer_pb2_grpc

_LOOK_TIMEOUT_S = 600.0  # an estimate tokenizes some thousand rows of what may be a large file


def format_of(file: Path) -> common_pb2.DatasetFormat:
    """Tells Parquet from JSON lines by the file's ending."""
    if file.suffix.lower() == ".parquet":
        return common_pb2.DATASET_FORMAT_PARQUET
    return common_pb2.DATASET_FORMAT_JSONL


def refused_rows(error: RemoteError) -> trainer_pb2.DatasetReport | None:
    """Returns the findings that came with a refused upload, as many as fit, or None when it was refused for another reason."""
    sent = error.details.get(FINDINGS_KEY)
    return trainer_pb2.DatasetReport.FromString(sent) if sent is not None else None


class PlanCalls:
    """Calls of TrainerService that create nothing; `Client` sets the attributes."""

    trainer: Channel
    _jobs: trainer_pb2_grpc.TrainerServiceStub

    def validate_dataset(
        self,
        tenant: str,
        file: Path,
        *,
        max_length: int = 0,
        preview_rows: int = 0,
        sample_rows: int = 0,
        sent: Callable[[int], None] = lambda _: None,
        looked: Callable[[int, int], None] = lambda done, total: None,
    ) -> trainer_pb2.DatasetReport:
        """Looks a file through without keeping it.

        Args:
            tenant: whose.
            file: JSONL or Parquet, told apart by its ending.
            max_length: tokens of a row; 0: the recipe's default.
            preview_rows: rows to show in tokens.
            sample_rows: tokenize about so many rows; 0: all.
            sent: called with the number of bytes of each piece, for a progress bar.
            looked: called with (done, total) while the service looks.

        Raises:
            RemoteError: the call failed; wrong rows are no failure.
            OSError: the file cannot be read.
        """
        header = trainer_pb2.ValidateDatasetHeader(
            parent=tenant_name(tenant),
            format=format_of(file),
            max_length=max_length,
            preview_rows=preview_rows,
            sample_rows=sample_rows,
        )

        def pieces() -> Iterator[trainer_pb2.ValidateDatasetRequest]:
            yield trainer_pb2.ValidateDatasetRequest(header=header)
            with file.open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    yield trainer_pb2.ValidateDatasetRequest(chunk=chunk)
                    sent(len(chunk))

        file.open("rb").close()  # an unreadable file fails here, by name, and not inside gRPC's thread
        return self._report(pieces(), looked)

    def validate_stored(
        self,
        dataset: str,
        *,
        max_length: int = 0,
        preview_rows: int = 0,
        looked: Callable[[int, int], None] = lambda done, total: None,
    ) -> trainer_pb2.DatasetReport:
        """Looks a stored data set through, `tenants/{tenant}/datasets/{dataset}`; see `validate_dataset`."""
        header = trainer_pb2.ValidateDatasetHeader(
            parent=dataset.partition("/datasets/")[0], dataset=dataset, max_length=max_length, preview_rows=preview_rows
        )
        return self._report(iter([trainer_pb2.ValidateDatasetRequest(header=header)]), looked)

    def _report(
        self, requests: Iterator[trainer_pb2.ValidateDatasetRequest], looked: Callable[[int, int], None]
    ) -> trainer_pb2.DatasetReport:
        report = None
        for answer in self.trainer.stream(self._jobs.ValidateDataset, requests, UPLOAD_TIMEOUT_S):
            if answer.WhichOneof("part") == "report":
                report = answer.report  # the last answer; read on, or the call would count as cancelled
            else:
                looked(answer.progress.done, answer.progress.total)
        if report is not None:
            return report
        raise RemoteInternal(f"{self.trainer.target} ended a validation without a report; try again")

    def explain_recipe(self, tenant: str, recipe: trainer_pb2.Recipe, rows: int) -> trainer_pb2.RecipeExplanation:
        """Says how a recipe would be filled in for a number of rows."""
        request = trainer_pb2.ExplainRecipeRequest(parent=tenant_name(tenant), recipe=recipe, rows=rows)
        return self.trainer.call(self._jobs.ExplainRecipe, request, idempotent=True)

    def estimate_job(
        self,
        tenant: str,
        recipe: trainer_pb2.Recipe,
        *,
        dataset: str = "",
        figures: trainer_pb2.DatasetFigures | None = None,
    ) -> trainer_pb2.JobEstimate:
        """Says what a job would take; name a stored data set, or give the figures of another one."""
        request = trainer_pb2.EstimateJobRequest(parent=tenant_name(tenant), recipe=recipe)
        if figures is not None:
            request.figures.CopyFrom(figures)
        else:
            request.dataset = dataset
        return self.trainer.call(self._jobs.EstimateJob, request, idempotent=True, timeout=_LOOK_TIMEOUT_S)
