"""What looking through a data set is asked for, and what it finds. Shapes only, shared by the service and the process that looks.

The looking is the engine's `inspection`, in a process of its own (`inspector`).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer_service.core.findings import Finding, Level

Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InspectionRequest(_Model):
    """What to look at, and how closely."""

    file: Path
    file_format: Literal["jsonl", "parquet"]
    digest: str
    """sha256 of the file: the split is drawn from it."""
    eval_fraction: float
    """Share of the rows that is held out, to find prompts on both sides."""
    backbone: Path | None = None
    """Folder of the tokenizer; None: rows are checked and not tokenized, which takes a fifth of the time."""
    max_length: int = 512
    """Tokens of a row."""
    sample_rows: int = 0
    """Tokenize about so many rows, drawn by chance, where there are more than twice as many; 0: all."""
    preview_rows: int = 0
    """Rows to show in tokens, from the first on."""


class Progress(_Model):
    """How far it is; `done` of `total` bytes or rows."""

    done: int
    total: int


class Figures(_Model):
    """How long a data set's rows are, in tokens after the cut to max_length."""

    rows: Count
    sampled_rows: Count
    """Rows that were tokenized; the sums below are scaled up to all rows where these are fewer."""
    max_length: Count
    tokens: Count
    tokens_error: float = Field(default=0.0, ge=0)
    """Half the width of the 95 % interval of `tokens`, relative; 0 where every row was tokenized."""
    supervised_tokens: Count
    squared_tokens: Count
    """Sum of the squares of the rows' tokens: what attention costs."""
    longest: Count
    median: Count
    percentile_95: Count
    cut_rows: Count


class PreviewSpan(_Model):
    """A stretch of a row, as its tokens read."""

    text: str
    supervised: bool


class PreviewRow(_Model):
    """A row as the model sees it."""

    line: int
    tokens: int
    full_tokens: int
    """Before the cut to max_length."""
    spans: tuple[PreviewSpan, ...]


class Inspection(_Model):
    """What was found."""

    rows: int
    """Wrong ones among them."""
    wrong_rows: int
    findings: tuple[Finding, ...]
    figures: Figures | None = None
    """None when nothing was tokenized."""
    preview: tuple[PreviewRow, ...] = ()
    template: Literal["", "tokenizer", "project"] = ""
    """Whose chat template was used."""

    @property
    def has_errors(self) -> bool:
        """Whether training on it is refused."""
        return any(finding.level is Level.ERROR for finding in self.findings)


class Output(_Model):
    """One line of the inspecting process's output."""

    progress: Progress | None = None
    report: Inspection | None = None
