"""The packed copy of a matrix that vLLM's CPU engine computes with: where it lies, and putting another one in its place.

vLLM packs each matrix for oneDNN when it has loaded it and drops the original; the copy belongs to a C++ object that
offers no way to hand it memory. So its pointer is exchanged here, in the object. Where the pointer lies was read from
vLLM 0.32 and oneDNN's headers; it is believed only where all around it is as expected and products have proved it
(`PackedWeight.move`); else nothing is changed. Linux and glibc's layout of the standard library, 64 bits.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any

import torch

# MatMulPrimitiveHandler: its table, b_n_size, b_n_stride, b_k_size, b_k_stride, two enums, then an unordered_map from
# argument to dnnl::memory, whose third word is the first node. A node: next, key, pointer to dnnl_memory.
_MAP_FIRST_NODE = 8
_WEIGHTS = 33  # DNNL_ARG_WEIGHTS
# dnnl_memory: dims and padded dims of its descriptor, and the vector of storages with one in it.
_DIMS, _TYPE, _PADDED_DIMS, _STORAGES = 4, 16, 17, 99
_TYPES = {1: torch.float16, 2: torch.bfloat16, 3: torch.float32}
_DATA = 6  # in cpu_memory_storage_t: the pointer; the word before it is the function that frees it
_ALIGNMENT = 64


class Unexpected(Exception):
    """The object is not what this file knows; nothing was changed."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A packed matrix.

    Attributes:
        handler: vLLM's CPUDNNLGEMMHandler.
        slot: address of the pointer to the data.
        address: of the data.
        size: in bytes.
        dtype: of its numbers.
    """

    handler: Any
    slot: int
    address: int
    size: int
    dtype: torch.dtype

    def move(self, to: int) -> None:
        """Makes products read the matrix from `to`, where the same bytes lie, and frees it where it was.

        Raises:
            Unexpected: the products say that this is not where the matrix was read from; nothing was changed.
        """
        first = torch.zeros(1, self.handler.k, dtype=self.dtype)
        first[0, 0] = 1  # gives the first column, whose first number comes first in any of oneDNN's packed forms
        if contents(self.address, self.dtype.itemsize).view(self.dtype)[0] != product(self.handler, first)[0, 0]:
            raise Unexpected("the matrix does not lie where the pointer says")
        x = torch.ones(1, self.handler.k, dtype=self.dtype) + torch.arange(self.handler.k, dtype=self.dtype).fmod(7)
        want = product(self.handler, x)
        with mmap.mmap(-1, self.size) as nothing:
            view = torch.frombuffer(nothing, dtype=torch.uint8)
            _write(self.slot, view.data_ptr())
            proof = bool((product(self.handler, x) == 0).all())
            _write(self.slot, to if proof else self.address)
            del view
        if not proof or not torch.equal(product(self.handler, x), want):
            _write(self.slot, self.address)
            raise Unexpected("products do not follow the pointer")
        # From here on the memory at `to` must not be freed by the object, and it lives as long as the process.
        self.handler.dtor = _keep
        _free(self.address)


def packed_weight(layer: torch.nn.Module) -> PackedWeight | None:
    """Returns a layer's packed matrix, None when it has none of oneDNN's.

    Raises:
        Unexpected: it has one, in a form that this file does not know.
    """
    from vllm._custom_ops import CPUDNNLGEMMHandler

    closure = getattr(getattr(layer, "cpu_linear", None), "__closure__", None) or ()
    handler = next((cell.cell_contents for cell in closure if isinstance(cell.cell_contents, CPUDNNLGEMMHandler)), None)
    if handler is None or handler.handler_tensor is None:
        return None
    n, k = handler.n, handler.k
    head = _words(handler.handler_tensor.item(), _MAP_FIRST_NODE + 1)
    if (head[1], head[3]) != (n, k):
        raise Unexpected("the handler's sizes are elsewhere")
    memory = _weights_of(head[_MAP_FIRST_NODE])
    body = _words(memory, _STORAGES + 2)
    padded_k, padded_n = body[_PADDED_DIMS : _PADDED_DIMS + 2]
    dtype = _TYPES.get(body[_TYPE] & 0xFFFFFFFF)
    if body[_DIMS : _DIMS + 2] != (k, n) or padded_k < k or padded_n < n or dtype is None:
        raise Unexpected("the descriptor is another one")
    if body[_STORAGES + 1] - body[_STORAGES] != 8:
        raise Unexpected("there is not one storage")
    slot = _words(body[_STORAGES], 1)[0] + 8 * _DATA
    size = padded_k * padded_n * dtype.itemsize
    release, address = _words(slot - 8, 2)
    if not _is_code(release) or address % _ALIGNMENT:
        raise Unexpected("the storage's pointer is elsewhere")
    for end in (address, address + size - 8):
        _words(end, 1)  # raises where nothing is mapped
    return PackedWeight(handler, slot, address, size, dtype)


def contents(address: int, size: int) -> torch.Tensor:
    """Returns memory as bytes, without a copy."""
    import ctypes

    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=torch.uint8)


def _weights_of(node: int) -> int:
    for _ in range(16):
        if node == 0:
            break
        node, key, memory = _words(node, 3)
        if key & 0xFFFFFFFF == _WEIGHTS:
            return memory
    raise Unexpected("the handler keeps its weights elsewhere")


def product(handler: Any, x: torch.Tensor) -> torch.Tensor:
    """Returns x (rows, k) by a handler's matrix as oneDNN computes it, whatever vLLM's own function is by now."""
    made = x.new_empty(len(x), handler.n)
    torch.ops._C.onednn_mm(made, x, None, handler.handler_tensor)
    return made


def _words(address: int, count: int) -> tuple[int, ...]:
    """Reads this process's memory; through the kernel, so that a wrong address is an error instead of the end."""
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        try:
            data = os.pread(memory.fileno(), 8 * count, address)
        except (OSError, OverflowError) as error:
            raise Unexpected(f"there is no memory at {address:#x}") from error
    if len(data) < 8 * count:
        raise Unexpected(f"there is no memory at {address:#x}")
    return struct.unpack(f"<{count}q", data)


def _is_code(address: int) -> bool:
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, rights, *_ = line.split(maxsplit=2)
            start, end = (int(part, 16) for part in span.split("-"))
            if start <= address < end:
                return "x" in rights
    return False


def _write(address: int, word: int) -> None:
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        os.pwrite(memory.fileno(), struct.pack("<q", word), address)


def _free(address: int) -> None:
    import ctypes

    free = ctypes.CDLL(None).free
    free.argtypes, free.restype = [ctypes.c_void_p], None
    free(address)


def _keep(handler: int) -> None:
    """In place of what frees a handler and its matrix."""
