"""Reads a safetensors file's header without any library that could run or allocate on the file's behalf.

Owns the format's bounds (https://github.com/huggingface/safetensors#format: 8 bytes little-endian header length, JSON,
then the tensors' bytes without holes). Does not own what the tensors should be.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_HEADER = 100_000_000
"""Bytes; the limit of the reference implementation."""
_MAX_DIMENSIONS = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class MalformedHeader(ValueError):
    """Not a safetensors file, or one whose header contradicts itself or the file's size."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    size: int
    """Bytes."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


Through = Callable[[Iterable[tuple[str, Any]]], Iterable[tuple[str, Any]]]


def read_header(file: Path, *, max_header: int = MAX_HEADER, through: Through = iter) -> list[Tensor]:
    """Returns the tensors of a safetensors file, in the order of their bytes.

    Args:
        file: the file.
        max_header: most bytes of JSON to accept.
        through: goes through the entries; for who has to let others have a turn meanwhile.

    Raises:
        MalformedHeader: too short, header too long or not JSON, unknown dtype, sizes that contradict shapes, tensors
            that overlap, leave holes or reach beyond the end of the file.
    """
    size = file.stat().st_size
    with file.open("rb") as source:
        return parse_header(source, size, max_header=max_header, through=through)


def parse_header(source: BinaryIO, size: int, *, max_header: int = MAX_HEADER, through: Through = iter) -> list[Tensor]:
    """Like `read_header`, on an open file of `size` bytes."""
    prefix = source.read(8)
    if len(prefix) < 8:
        raise MalformedHeader("it is shorter than 8 bytes")
    (length,) = struct.unpack("<Q", prefix)
    # Before any read of that length: a hostile header must not decide how much memory is taken.
    if length > max_header or 8 + length > size:
        raise MalformedHeader(f"its header claims {length} bytes")
    try:
        header = json.loads(source.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise MalformedHeader("its header is not JSON, or names a tensor twice") from None
    if not isinstance(header, dict):
        raise MalformedHeader("its header is not an object")
    header.pop("__metadata__", None)
    tensors = sorted((_tensor(name, entry, 8 + length) for name, entry in through(header.items())), key=_position)
    _check_contiguous(tensors, 8 + length, size)
    return tensors


def _position(tensor: Tensor) -> tuple[int, int]:
    return tensor.start, tensor.size  # an empty tensor stands before the one that starts at the same byte


def _no_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:  # two readers could take different ones: what was checked would not be what is served
            raise ValueError(key)
        found[key] = value
    return found


def _tensor(name: str, entry: Any, data_start: int) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise MalformedHeader(f"tensor {name!r:.120} lacks dtype, shape or data_offsets, or has more than these")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise MalformedHeader(f"tensor {name!r:.120} has the unknown dtype {dtype!r:.40}")
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS or not _naturals(offsets) or len(offsets) != 2:
        raise MalformedHeader(f"tensor {name!r:.120} has a shape or data_offsets that are not lists of natural numbers")
    start, end = offsets
    if end < start or (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise MalformedHeader(f"tensor {name!r:.120} has {end - start} bytes, which its shape and dtype contradict")
    return Tensor(name, dtype, tuple(shape), data_start + start, end - start)


def _naturals(value: Any) -> bool:
    # bool is an int in Python, and 2**63 in a shape would make any product a giant
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _check_contiguous(tensors: list[Tensor], position: int, size: int) -> None:
    for tensor in tensors:
        if tensor.start != position:
            raise MalformedHeader(f"tensor {tensor.name!r:.120} overlaps another one or leaves a hole before it")
        position += tensor.size
    if position != size:
        raise MalformedHeader(f"its tensors end at byte {position}, the file at {size}")
