"""Looking rows through before they are kept: the report, and the calls that give it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from graftwork.client.errors import RemoteInternal
from graftwork.client.registry import CHUNK_BYTES
from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Stream
from graftwork.sdk.datasets import Finding, Upload
from graftwork.sdk.reading import read_fields
from graftwork.v1 import trainer_pb2 as pb

_FIGURES = "rows sampled_rows max_length tokens tokens_error supervised_tokens squared_tokens longest median percentile_95 cut_rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFigures:
    """How long rows are, in tokens after the cut to `max_length`; scaled up where not all rows were tokenized.

    Attributes:
        rows: that can be trained on. sampled_rows: that were tokenized.
        max_length: tokens that a row was cut to. cut_rows: that were longer.
        tokens, supervised_tokens: of all rows, and those that the loss counts.
        tokens_error: half the width of the 95 % interval of `tokens`, as a share of it; 0: exact.
        squared_tokens: sum of the squares of the rows' tokens.
        longest, median, percentile_95: tokens of a row.
    """

    rows: int
    sampled_rows: int
    max_length: int
    tokens: int
    tokens_error: float
    supervised_tokens: int
    squared_tokens: int
    longest: int
    median: int
    percentile_95: int
    cut_rows: int

    @classmethod
    def of(cls, message: pb.DatasetFigures) -> "DatasetFigures":
        return cls(**read_fields(message, _FIGURES))

    def message(self) -> pb.DatasetFigures:
        """As the protocol writes it."""
        return pb.DatasetFigures(**{name: getattr(self, name) for name in _FIGURES.split()})


@dataclass(frozen=True, slots=True)
class PreviewSpan:
    """Neighbouring tokens of a row, decoded. `supervised`: the loss counts them."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A row as the model sees it.

    Attributes:
        line: in the file, from 1.
        tokens, full_tokens: after and before the cut.
        spans: all of it, in order.
    """

    line: int
    tokens: int
    full_tokens: int
    spans: tuple[PreviewSpan, ...]

    @classmethod
    def of(cls, message: pb.PreviewRow) -> "PreviewRow":
        spans = tuple(PreviewSpan(span.text, span.supervised) for span in message.spans)
        return cls(message.line, message.tokens, message.full_tokens, spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What a look through rows found; nothing was kept.

    Attributes:
        rows, wrong_rows: all of them, and those that cannot be trained on.
        findings: errors first, with line numbers.
        figures: of the rows' lengths.
        preview: as many rows as were asked for.
        template: `tokenizer`, the backbone's own chat template, or `project`, the one of this project.
    """

    rows: int
    wrong_rows: int
    findings: tuple[Finding, ...]
    figures: DatasetFigures
    preview: tuple[PreviewRow, ...]
    template: str

    @property
    def usable(self) -> bool:
        """Whether an upload of these rows would be taken."""
        return not self.wrong_rows and not any(finding.level == "error" for finding in self.findings)

    @classmethod
    def of(cls, message: pb.DatasetReport) -> "DatasetReport":
        return cls(
            rows=message.rows,
            wrong_rows=message.wrong_rows,
            findings=tuple(map(Finding.of, message.findings)),
            figures=DatasetFigures.of(message.figures),
            preview=tuple(map(PreviewRow.of, message.preview)),
            template=message.template,
        )


def validate_rows(
    parent: str, upload: Upload, *, max_length: int, preview_rows: int, sample_rows: int, timeout: float | None
) -> Stream:
    """Raises OSError, here and not inside gRPC's thread, for a file that cannot be read."""
    upload.open().close()
    header = pb.ValidateDatasetHeader(
        parent=parent,
        format=upload.file_format,
        max_length=max_length,
        preview_rows=preview_rows,
        sample_rows=sample_rows,
    )

    def pieces() -> Iterator[pb.ValidateDatasetRequest]:
        yield pb.ValidateDatasetRequest(header=header)
        with upload.open() as source:
            while chunk := source.read(CHUNK_BYTES):
                yield pb.ValidateDatasetRequest(chunk=chunk)

    return Stream(Api.TRAINER, "ValidateDataset", pieces, timeout or FILE_TIMEOUT_S)


def validate_stored(
    dataset: str, *, max_length: int, preview_rows: int, sample_rows: int, timeout: float | None
) -> Stream:
    header = pb.ValidateDatasetHeader(
        parent=dataset.partition("/datasets/")[0],
        dataset=dataset,
        max_length=max_length,
        preview_rows=preview_rows,
        sample_rows=sample_rows,
    )

    def pieces() -> Iterator[pb.ValidateDatasetRequest]:
        yield pb.ValidateDatasetRequest(header=header)

    return Stream(Api.TRAINER, "ValidateDataset", pieces, timeout or FILE_TIMEOUT_S)


class Looking:
    """Takes what a validation streams.

    Args:
        progress: called with what was looked at and all there is: bytes of JSON lines, rows of Parquet.
    """

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self._progress = progress
        self._report: DatasetReport | None = None

    def take(self, message: Any) -> None:
        """Takes the next message."""
        if message.WhichOneof("part") == "report":
            self._report = DatasetReport.of(message.report)
        elif self._progress:
            self._progress(message.progress.done, message.progress.total)

    def report(self) -> DatasetReport:
        """Returns the report. Raises RemoteInternal when none came."""
        if self._report is None:
            raise RemoteInternal("the trainer ended a validation without a report; try again")
        return self._report
