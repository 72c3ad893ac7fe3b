"""Encoded rows in Arrow: written once, mapped into memory, read row by row without a copy.

A data set of any size costs the process 28 bytes a row (lengths, lines, keys); the tokens stay in the file, and the kernel
keeps of them in memory what fits. Owns the columns and reaching a row. Does not own where rows come from (`data`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from trainer_service.engine.batches import Example
from trainer_service.engine.rendering import Rendered

SCHEMA = pa.schema(
    {
        "ids": pa.list_(pa.int32()),
        "spans": pa.list_(pa.int32()),  # start, end, start, end, ...: the stretches of `ids` that the loss counts
        "line": pa.int64(),
        "prompt": pa.uint64(),
    }
)


class Examples(Sequence[Example]):
    """Encoded rows, or some of them; a sequence of `Example` whose tensors are made when a row is asked for.

    Attributes:
        lengths: int64 [N], `Example.length` of every row, without loading one.
        lines: int64 [N], of the data set's file, from 1: what a message about a row names.
        prompts: uint64 [N], `Row.prompt_key`: what `split` keeps together.
    """

    def __init__(self, table: pa.Table, rows: NDArray[np.int64] | None = None) -> None:
        """Takes a table of SCHEMA; `rows` picks and orders, all of them by default."""
        self._table = table
        self._rows = np.arange(table.num_rows) if rows is None else rows
        ids, spans = table.column("ids"), table.column("spans")
        # Offsets and values of each chunk are views of the mapped file.
        self._ids = [(part.offsets.to_numpy(), part.values.to_numpy()) for part in ids.chunks]
        self._spans = [(part.offsets.to_numpy(), part.values.to_numpy()) for part in spans.chunks]
        self._starts = np.cumsum([0, *map(len, ids.chunks)])
        every = [np.diff(offsets) for offsets, _ in self._ids] or [np.zeros(0, np.int32)]
        self.lengths: NDArray[np.int64] = np.concatenate(every).astype(np.int64)[self._rows] - 1
        self.lines: NDArray[np.int64] = table.column("line").to_numpy()[self._rows]
        self.prompts: NDArray[np.uint64] = table.column("prompt").to_numpy()[self._rows]

    @classmethod
    def open(cls, file: Path) -> "Examples":
        """Maps a file that `datasets.arrow_writer.ArrowWriter` wrote."""
        from datasets import Dataset

        return cls(Dataset.from_file(str(file)).data.table)

    def select(self, rows: NDArray[np.int64]) -> "Examples":
        """Returns some of the rows, in the given order; nothing is copied."""
        return Examples(self._table, self._rows[rows])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> "Examples": ...
    def __getitem__(self, at: int | slice) -> "Example | Examples":
        if isinstance(at, slice):
            return Examples(self._table, self._rows[at])
        row = int(self._rows[at])
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        row -= int(self._starts[chunk])
        ids = torch.from_numpy(_piece(self._ids[chunk], row).astype(np.int64))
        supervised = torch.zeros(len(ids), dtype=torch.bool)
        spans = _piece(self._spans[chunk], row).tolist()
        for start, end in zip(spans[::2], spans[1::2], strict=True):
            supervised[start:end] = True
        return Example(ids, supervised)


def _piece(part: tuple[NDArray[np.int32], NDArray[np.int32]], row: int) -> NDArray[np.int32]:
    offsets, values = part
    return values[offsets[row] : offsets[row + 1]]


def table_of(rendered: Iterable[Rendered]) -> pa.Table:
    """Returns rows as a table of SCHEMA, in memory."""
    rows = list(rendered)
    columns = {
        "ids": [row.ids for row in rows],
        "spans": [[edge for span in row.spans for edge in span] for row in rows],
        "line": [row.row.line for row in rows],
        "prompt": [row.row.prompt_key for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)
