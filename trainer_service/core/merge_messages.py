"""What the service tells the process that merges, and what it hears. Imported by both sides; imports neither torch
nor a database.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Stage = Literal["waiting", "fetching", "merging", "evaluating", "checking"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MergeSpec(_Message):
    """One merge. Holds the store's URL, so the file is readable by its owner only."""

    tenant: str
    adapter: str
    version: str
    backbone: Path
    store_url: str
    work_dir: Path
    """The merge's own folder; the result goes into its folder `merged`."""
    device: Literal["cpu", "cuda"]
    threads: int
    evaluate: bool


class MergeProgress(_Message):
    """How far it is: bytes while merging and checking, rows while evaluating."""

    kind: Literal["progress"] = "progress"
    stage: Stage
    done: int = 0
    total: int = 0


class MergedFile(_Message):
    """A file of the result."""

    path: str
    sha256: str
    size: int


class MergeReport(_Message):
    """The result, all of it on the disk."""

    kind: Literal["report"] = "report"
    base_model: str
    base_digest: str
    dtype: str
    modules: int
    max_rounding: float
    """Largest share of a module's update that rounding to the dtype took away (Frobenius norms)."""
    files: tuple[MergedFile, ...]
    evaluation: str
    """Which rows the figures below are over, or why there are none."""
    rows: int = 0
    base_loss: float = 0.0
    adapter_loss: float = 0.0
    merged_loss: float = 0.0
    distance: float = 0.0
    """Mean |difference of log-probability| a token between merged weights and adapter, in nats."""
    effect: float = 0.0
    """The same between adapter and base."""


class MergeFailed(_Message):
    """It gives up."""

    kind: Literal["failed"] = "failed"
    reason: Literal["refused", "unavailable", "broken"]
    message: str


MergeMessage = Annotated[MergeProgress | MergeReport | MergeFailed, Field(discriminator="kind")]
MERGE_MESSAGE: TypeAdapter[MergeMessage] = TypeAdapter(MergeMessage)
