"""Rows and prompts that occur more than once, found in 24 bytes a row.

Owns comparing rows with each other. Does not own what makes two rows equal (`rows.Row.row_key`, `prompt_key`) nor the split
(`split`). Imports numpy, so the service's process leaves this module to others.
"""

from array import array

import numpy as np
from numpy.typing import NDArray

from trainer_service.core.findings import Findings
from trainer_service.core.rows import Row
from trainer_service.core.split import split


class RowKeys:
    """Keys and lines of all rows, in order."""

    def __init__(self) -> None:
        self._lines, self._rows, self._prompts = array("Q"), array("Q"), array("Q")

    def add(self, row: Row) -> None:
        """Takes the next row."""
        self._lines.append(row.line)
        self._rows.append(row.row_key)
        self._prompts.append(row.prompt_key)

    def __len__(self) -> int:
        return len(self._lines)

    def report(self, findings: Findings) -> None:
        """Tells of rows that are there before, prompts with several responses, and of only one different row."""
        lines, rows, prompts = (np.frombuffer(keys, np.uint64) for keys in (self._lines, self._rows, self._prompts))
        if not len(lines):
            return
        again = _seen_before(rows)
        findings.add_lines("duplicate_rows", lines[again].tolist())
        # Of what is left, each row is a different one: a prompt that is seen again has another response.
        first = ~again
        findings.add_lines("same_prompt", lines[first][_seen_before(prompts[first])].tolist())
        if int(first.sum()) == 1:
            findings.add("one_row")

    def report_overlap(self, findings: Findings, *, held_out: int, data_digest: str) -> None:
        """Tells of held-out rows whose prompt is trained on, as `split` will draw them."""
        lines, prompts = np.frombuffer(self._lines, np.uint64), np.frombuffer(self._prompts, np.uint64)
        train, held = split(prompts, held_out, data_digest)
        findings.add_lines("overlap", lines[held][np.isin(prompts[held], prompts[train])].tolist())


def _seen_before(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Marks every key that an earlier place holds already."""
    seen = np.ones(len(keys), bool)
    seen[np.unique(keys, return_index=True)[1]] = False
    return seen
