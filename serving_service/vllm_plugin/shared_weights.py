"""Weights in memory that all engines of one backbone on this machine map: the frozen backbone's are there once.

The backbone's engine moves its loaded weights, as it computes with them, into a sealed memory file (`publish`); an engine
of merged weights maps the file and keeps pages of its own only where its bytes differ (`adopt`). Owns the file and which
weights are in it. Only on a CPU: on a GPU `publish` does nothing. A weight that cannot be moved stays where it was.
"""

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from serving_service.vllm_plugin.cpu_memory import give_back
from serving_service.vllm_plugin.packed_weights import PackedWeight, Unexpected, contents, packed_weight

PAGE = mmap.PAGESIZE
_LEAST_BYTES = 16 * PAGE
"""Smaller weights (norms, biases) stay private: a page or two each is not worth a map."""
_TRIM_BYTES = 64 << 20

Shared = dict[str, Any]
"""As it goes between processes: `path` of the file and `weights`: name to [offset, size]; empty when nothing is shared."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight as the engine computes with it.

    Attributes:
        name: the same in all engines of a backbone, with LoRA or without.
        place: the packed matrix, or the parameter.
    """

    name: str
    place: PackedWeight | nn.Parameter

    def bytes(self) -> torch.Tensor:
        """Returns its bytes, without a copy."""
        if isinstance(self.place, PackedWeight):
            return contents(self.place.address, self.place.size)
        return contents(self.place.data.data_ptr(), self.place.data.nbytes)

    def move(self, to: int) -> None:
        """Makes the engine use the same bytes at `to`. Raises Unexpected."""
        if isinstance(self.place, PackedWeight):
            self.place.move(to)
            return
        data = self.place.data
        self.place.data = contents(to, data.nbytes).view(data.dtype).view(data.shape)


def weights_of(model: nn.Module) -> Iterator[Weight]:
    """Yields a loaded model's weights that are worth sharing.

    Raises:
        Unexpected: see `packed_weights`.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        name = path.replace(".base_layer", "")  # what vLLM puts a LoRA layer around
        packed = packed_weight(module)
        if packed is not None and packed.size >= _LEAST_BYTES and packed.slot not in seen:
            seen.add(packed.slot)
            yield Weight(f"{name}:packed", packed)
        for key, parameter in module.named_parameters(recurse=False):
            data = parameter.data
            if data.nbytes < _LEAST_BYTES or not data.is_contiguous() or data.data_ptr() in seen:
                continue
            seen.add(data.data_ptr())
            yield Weight(f"{name}.{key}", parameter)


def publish(model: nn.Module) -> Shared:
    """Moves the model's weights into a memory file that others can map; this process keeps it open and uses it itself."""
    if next(model.parameters()).device.type != "cpu" or not hasattr(os, "memfd_create"):
        return {}
    try:
        weights = list(weights_of(model))
    except Unexpected:
        return {}
    file = os.memfd_create("graft-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    table, at = dict[str, list[int]](), 0
    for weight in weights:
        size = weight.bytes().numel()
        table[weight.name] = [at, size]
        at += -(-size // PAGE) * PAGE
    os.ftruncate(file, at)
    freed = 0
    for weight in weights:
        offset, size = table[weight.name]
        _pwrite(file, weight.bytes(), offset)
        try:
            weight.move(_map(file, offset, size))
        except Unexpected:
            del table[weight.name]
        freed += size
        if freed >= _TRIM_BYTES:
            give_back()
            freed = 0
    give_back()
    # From now on nobody can change a byte of it, this process included.
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    )
    return {"path": f"/proc/{os.getpid()}/fd/{file}", "weights": table}


def adopt(model: nn.Module, shared: Shared) -> int:
    """Maps what is shared into a loaded model; bytes that differ stay private, a page at a time.

    Returns:
        Bytes that are shared now.
    """
    if not shared:
        return 0
    try:
        weights = list(weights_of(model))
    except Unexpected:
        return 0
    file = os.open(shared["path"], os.O_RDONLY | os.O_CLOEXEC)
    total = freed = 0
    try:
        for weight in weights:
            offset, size = shared["weights"].get(weight.name, (0, -1))
            mine = weight.bytes()
            if mine.numel() != size:
                continue
            address, private = _map_with(file, offset, mine)
            try:
                weight.move(address)
            except Unexpected:
                _LIBC.munmap(address, size)
                continue
            total += size - private
            freed += size
            if freed >= _TRIM_BYTES:
                give_back()
                freed = 0
    finally:
        os.close(file)  # maps outlive it
    give_back()
    return total


def _map_with(file: int, offset: int, mine: torch.Tensor) -> tuple[int, int]:
    """Maps the shared bytes and writes `mine` over those pages that differ.

    Returns:
        The address, and how many bytes are private.
    """
    size = mine.numel()
    address = _map(file, offset, size)
    theirs = contents(address, size)
    whole = size // PAGE * PAGE
    differ = (mine[:whole].view(torch.int64) != theirs[:whole].view(torch.int64)).view(-1, PAGE // 8).any(1)
    pages = [int(page) * PAGE for page in differ.nonzero()]
    if whole < size and not torch.equal(mine[whole:], theirs[whole:]):
        pages.append(whole)
    if pages:
        _LIBC.mprotect(address, size, mmap.PROT_READ | mmap.PROT_WRITE)
        for page in pages:
            ctypes.memmove(address + page, mine.data_ptr() + page, min(PAGE, size - page))
    return address, len(pages) * PAGE


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def _map(file: int, offset: int, size: int) -> int:
    """Maps for good: readable, private when it is ever written. (Python's own maps end with their object.)"""
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, file, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "cannot map the shared weights")
    return int(address)


def _pwrite(file: int, data: torch.Tensor, offset: int) -> None:
    view: memoryview = data.numpy().data
    done = 0
    while done < len(view):
        done += os.pwrite(file, view[done:], offset + done)
