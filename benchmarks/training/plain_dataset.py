"""The two calls of `datasets.Dataset` that the seed's pipeline makes, for machines without that library.

Rows in a list; what the Trainer reads is the same.
"""

from collections.abc import Callable
from typing import Any


class Dataset:
    """Rows of columns."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    @classmethod
    def from_list(cls, rows: list[dict[str, Any]]) -> "Dataset":
        """Takes rows as they are."""
        return cls(rows)

    def map(
        self, function: Callable[[dict[str, list[Any]]], Any], *, batched: bool, remove_columns: list[str]
    ) -> "Dataset":
        """Gives all rows to `function` at once, and keeps what it returns as rows of lists."""
        assert batched
        assert set(remove_columns) == set(self._rows[0])
        columns = function({name: [row[name] for row in self._rows] for name in self._rows[0]})
        made = {name: columns[name].tolist() for name in columns}
        return Dataset([{name: made[name][at] for name in made} for at in range(len(self._rows))])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return self._rows[at]

    def column(self, name: str) -> list[Any]:
        """Returns one column."""
        return [row[name] for row in self._rows]
