"""An adapter merged into its backbone, as a folder of its own: the report, and receiving the folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.client.folders import DamagedDownload, Receiver
from graftwork.sdk.calls import Api, Stream
from graftwork.sdk.reading import read_fields
from graftwork.v1 import trainer_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What was merged, and how close it is to the adapter.

    Attributes:
        version: `tenants/acme/adapters/support/versions/<digest>`.
        base_model, base_digest: the backbone. dtype: of the merged weights, the backbone's.
        modules: that the adapter changed.
        files: name -> bytes.
        rows: held-out rows that the losses are over; 0: not measured. evaluation: which rows, or why there was none.
        base_loss, adapter_loss, merged_loss: nats a token.
        max_rounding: largest share of a module's update that rounding to the dtype took away (Frobenius norms).
        distance: mean |difference of log-probability| a token between merged weights and adapter, nats.
        effect: the same between adapter and base.
    """

    version: str
    base_model: str
    base_digest: str
    dtype: str
    modules: int
    files: dict[str, int]
    rows: int
    evaluation: str
    base_loss: float
    adapter_loss: float
    merged_loss: float
    max_rounding: float
    distance: float
    effect: float

    @classmethod
    def of(cls, message: pb.MergeReport) -> "MergeReport":
        same = read_fields(
            message,
            "version base_model base_digest dtype modules rows evaluation base_loss adapter_loss merged_loss max_rounding "
            "distance effect",
        )
        return cls(**same, files={file.path: file.size_bytes for file in message.files})


def merge_version(name: str, *, evaluate: bool, timeout: float | None) -> Stream:
    return Stream(Api.TRAINER, "MergeVersion", pb.MergeVersionRequest(name=name, skip_evaluation=not evaluate), timeout)


class MergedFolder:
    """Writes what `merge_version` streams into a folder.

    Args:
        folder: there and empty.
        progress: called with the stage, what is done of it and how much it is; 0: not known.
    """

    def __init__(self, folder: Path, progress: Callable[[str, int, int], None] | None) -> None:
        self._folder, self._progress = folder, progress
        self._report: pb.MergeReport | None = None
        self._receiver = Receiver(folder, ())
        self._done = self._total = 0

    def take(self, message: Any) -> None:
        """Takes the next message. Raises DamagedDownload."""
        match message.WhichOneof("part"):
            case "progress":
                self._tell(message.progress.stage, message.progress.done, message.progress.total)
            case "report":
                self._report, files = message.report, message.report.files
                self._total = sum(file.size_bytes for file in files)
                self._receiver = Receiver(self._folder, [(file.path, file.sha256, file.size_bytes) for file in files])
            case "file":
                self._receiver.begin(message.file.path)
            case "chunk":
                self._receiver.write(message.chunk)
                self._done += len(message.chunk)
                self._tell("receiving", self._done, self._total)

    def finish(self) -> MergeReport:
        """Returns the report. Raises DamagedDownload when files are missing or damaged."""
        self._receiver.finish()
        if self._report is None:
            raise DamagedDownload("the trainer sent nothing; try again")
        return MergeReport.of(self._report)

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(stage, done, total)
