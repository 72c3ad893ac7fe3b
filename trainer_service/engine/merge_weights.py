"""Adding low-rank updates to the weights of a checkpoint: W + scale * B A, in place in a copy of its files.

Needs torch and nothing of this project. A safetensors file holds its tensors' bytes at known places, and a merged
matrix has the shape and dtype of the one before it, so each file is copied and only the changed matrices are written
over: memory holds one matrix at a time, however large the model is.

Arithmetic: float32 for the product and the sum, then one rounding to the checkpoint's dtype. Merging into quantised
weights is refused: the update is far below their step, and most of it would be rounded away.
"""

import json
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PIECE = 16 << 20


class Unmergeable(Exception):
    """The checkpoint's weights cannot take the update; the message says why."""


@dataclass(frozen=True)
class LowRank:
    """An update of one matrix."""

    a: torch.Tensor
    """[r, in]"""
    b: torch.Tensor
    """[out, r]"""
    scale: float
    transposed: bool = False
    """The checkpoint keeps the matrix as [in, out]."""

    def delta(self) -> torch.Tensor:
        """Returns float32, shaped as the checkpoint keeps the matrix."""
        product = self.scale * (self.b.float() @ self.a.float())
        return product.T if self.transposed else product


def merge_file(
    source: Path, target: Path, updates: Mapping[str, LowRank], copied: Callable[[int], None] = lambda size: None
) -> dict[str, float]:
    """Copies a safetensors file with some of its matrices updated.

    Args:
        source: the base's file.
        target: made; must not exist.
        updates: by tensor name; those of other files are left alone.
        copied: told the bytes of each piece.

    Returns:
        For each updated tensor what rounding to its dtype took away, relative to the update: Frobenius norm of
        (rounded - exact) over that of the update.

    Raises:
        Unmergeable: a tensor is quantised, or of another shape than its update. `target` may be half written.
    """
    header, start = _header(source)
    with source.open("rb") as original, target.open("xb") as copy:
        while piece := original.read(_PIECE):
            copy.write(piece)
            copied(len(piece))
    lost = {}
    with target.open("r+b") as file, mmap.mmap(file.fileno(), 0) as bytes_:
        for name, update in updates.items():
            if name in header:
                lost[name] = _update(bytes_, start, name, header[name], update)
        bytes_.flush()
    return lost


def _update(bytes_: mmap.mmap, start: int, name: str, entry: Mapping[str, Any], update: LowRank) -> float:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise Unmergeable(f"{name} is stored as {entry['dtype']}: only unquantised weights can be merged into")
    begin, end = (start + offset for offset in entry["data_offsets"])
    # A copy: a tensor that shares the map's memory would keep the file from being closed.
    weight = torch.frombuffer(bytearray(bytes_[begin:end]), dtype=dtype).view(*entry["shape"])
    delta = update.delta()
    if delta.shape != weight.shape:
        raise Unmergeable(f"{name} is {tuple(weight.shape)}, its update {tuple(delta.shape)}")
    exact = weight.float() + delta
    rounded = exact.to(dtype)
    bytes_[begin:end] = rounded.contiguous().view(torch.uint8).numpy().tobytes()
    size = float(delta.norm())
    return float((rounded.float() - exact).norm()) / size if size else 0.0


def tensor_names(file: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a safetensors file's tensors by name."""
    return {name: tuple(entry["shape"]) for name, entry in _header(file)[0].items()}


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Returns the header and where the tensors' bytes begin (https://github.com/huggingface/safetensors#format)."""
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header = json.loads(source.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length
