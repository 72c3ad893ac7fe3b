"""Which rows are held out: a pure function of the data, the same for validation, estimate and every attempt of a job.

Rows with one prompt (equal rows among them) stay on one side: a held-out row whose prompt was trained on would measure memory.
Imports numpy, so the service's process leaves this module to others.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
_BLOCK = 1 << 16


def split(prompts: NDArray[np.uint64], held_out: int, data_digest: str) -> tuple[Rows, Rows]:
    """Splits rows 0..N-1 into (train, held out), each in ascending order and none of them empty.

    Prompts are put in the order of sha256(digest:prompt) and held out whole, as long as they fit. With many prompts of few
    rows the wanted number is met exactly; otherwise fewer rows are held out, or more where the smallest prompt is larger.
    Where all rows have one prompt, single rows are held out, and `RowKeys.report_overlap` tells of it.

    Args:
        prompts: uint64 [N], `Row.prompt_key` of every row; at least 2 rows.
        held_out: how many rows to hold out, 1..N-1.
        data_digest: sha256 of the data set's bytes.
    """
    keys, members = np.unique(prompts, return_inverse=True)
    if len(keys) == 1:
        keys, members = np.arange(len(prompts), dtype=np.uint64), np.arange(len(prompts))
    sizes = np.bincount(members)
    order = np.argsort(_drawn(keys, data_digest), kind="stable")
    chosen = np.zeros(len(keys), bool)
    left = held_out
    for at in order:
        if sizes[at] <= left:
            chosen[at] = True
            left -= int(sizes[at])
            if not left:
                break
    if not chosen.any():
        chosen[order[np.argmin(sizes[order])]] = True
    if chosen.all():  # not with a share of at most half, but a caller may ask for N-1
        chosen[order[-1]] = False
    held = chosen[members]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _drawn(keys: NDArray[np.uint64], digest: str) -> NDArray[np.uint64]:
    """Returns a number for each key, as good as random and the same everywhere."""
    drawn = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), _BLOCK):  # Python's own numbers and hashes of a million rows would be 150 MB
        block = keys[start : start + _BLOCK].tolist()
        hashes = b"".join(hashlib.sha256(f"{digest}:{key}".encode()).digest()[:8] for key in block)
        drawn[start : start + len(block)] = np.frombuffer(hashes, ">u8")
    return drawn
