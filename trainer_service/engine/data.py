"""A data set's rows as examples, encoded once for a job and kept in its folder.

Owns the cache: a pure function of the data's digest, the tokenizer, the template and the length, whole or not there, so that
a job that was killed goes on with the very same rows and does not encode them again. Does not own rendering (`rendering`),
the columns (`examples`) or batches (`batches`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from trainer_service.core.rows import Row, read_rows
from trainer_service.engine.errors import UnusableData
from trainer_service.engine.examples import SCHEMA, Examples, table_of
from trainer_service.engine.rendering import BLOCK_ROWS, Rendered, TemplateMismatch, chat_template, render
from trainer_service.engine.tokenizer import Tokenizer

_LAYOUT = 1
_SHOWN_LINES = 20
# Whatever transformers reads a tokenizer from.
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")


class _Counts(BaseModel):
    """What happened to the rows; written after the rows, so its presence says that they are whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    truncated: int = 0
    unsupervised_turns: int = 0
    tokens: int = 0
    supervised: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """All rows as examples, and what happened on the way."""

    examples: Examples
    truncated: int
    """Rows that were cut."""
    unsupervised_turns: int
    """Earlier assistant turns that the template rewrites later, so that they cannot be supervised."""
    tokens: int
    """Of all rows, after the cut."""
    supervised: int
    """Tokens that the loss counts."""


@dataclass(frozen=True, slots=True)
class Source:
    """What an encoded data set is a function of, next to the length."""

    file: Path
    """Verified rows."""
    file_format: str
    digest: str
    """sha256 of the file."""
    backbone: Path
    """Folder with the tokenizer."""


def encode(rows: Sequence[Row], tokenizer: Tokenizer, *, max_length: int) -> Encoded:
    """Encodes rows in memory; for a few of them.

    Args:
        rows: checked rows.
        tokenizer: of the backbone.
        max_length: tokens kept of a row, from its start.

    Raises:
        UnusableData: a row has no supervised token left; the message names lines.
    """
    counter = _Counter(max_length)
    table = table_of(counter.counted(render(rows, tokenizer, max_length=max_length)))
    return _encoded(Examples(table), counter.finish())


def encode_file(source: Source, tokenizer: Tokenizer, *, max_length: int, folder: Path) -> Encoded:
    """Encodes a data set's file into `folder`, or finds there what an earlier attempt encoded.

    Memory holds a block of rows at a time; see `examples`.

    Raises:
        InvalidRows: the file holds wrong rows.
        UnusableData: a row has no supervised token left; the message names lines.
    """
    made = folder / _key(source, tokenizer, max_length)
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)  # of another recipe, or half of one
        partial = folder / "partial"
        partial.mkdir(parents=True)
        rows = read_rows(source.file, source.file_format)
        counts = _write(rows, tokenizer, max_length, partial / "rows.arrow")
        (partial / "counts.json").write_text(counts.model_dump_json())
        for path in (*partial.iterdir(), partial):
            _flush(path)
        partial.rename(made)
    counts = _Counts.model_validate_json((made / "counts.json").read_bytes())
    return _encoded(Examples.open(made / "rows.arrow"), counts)


def _write(rows: Iterable[Row], tokenizer: Tokenizer, max_length: int, file: Path) -> _Counts:
    from datasets.arrow_writer import ArrowWriter

    counter = _Counter(max_length)
    rendered = counter.counted(render(rows, tokenizer, max_length=max_length))
    with ArrowWriter(path=str(file), schema=SCHEMA) as writer:
        while block := list(islice(rendered, BLOCK_ROWS)):
            writer.write_table(table_of(block))
        writer.finalize()
    return counter.finish()


class _Counter:
    """Counts rows on their way, and refuses at the end when some have nothing to learn."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._counts = dict.fromkeys(_Counts.model_fields, 0)
        self._empty: list[int] = []
        self._empty_rows = 0

    def counted(self, rendered: Iterator[Rendered]) -> Iterator[Rendered]:
        """Yields the rows that have a supervised token."""
        try:
            for row in rendered:
                self._counts["truncated"] += row.full_length > self._max_length
                self._counts["unsupervised_turns"] += row.unsupervised_turns
                self._counts["tokens"] += len(row.ids)
                self._counts["supervised"] += row.supervised
                if row.spans:
                    yield row
                    continue
                self._empty_rows += 1
                if len(self._empty) < _SHOWN_LINES:
                    self._empty.append(row.row.line)
        except TemplateMismatch as error:
            raise UnusableData(str(error)) from error

    def finish(self) -> _Counts:
        if self._empty_rows:
            raise UnusableData(
                f"{self._empty_rows} row(s) have no response token within max_length = {self._max_length}: "
                f"line(s) {', '.join(map(str, self._empty))}; raise max_length or shorten the prompts"
            )
        return _Counts(**self._counts)


def _encoded(examples: Examples, counts: _Counts) -> Encoded:
    return Encoded(examples, counts.truncated, counts.unsupervised_turns, counts.tokens, counts.supervised)


def _key(source: Source, tokenizer: Tokenizer, max_length: int) -> str:
    content = {
        "layout": _LAYOUT,
        "data": f"{source.file_format}:{source.digest}",
        "tokenizer": tokenizer_digest(source.backbone),
        "template": chat_template(tokenizer),
        "max_length": max_length,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def tokenizer_digest(folder: Path) -> str:
    """Returns the sha256 over everything that a folder's tokenizer is made of."""
    files = sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
