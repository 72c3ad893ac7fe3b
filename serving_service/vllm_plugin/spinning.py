"""How long OpenMP's threads look for work at the end of a loop before they sleep, changed while the engine runs.

libgomp has them look 300,000 times, 8 ms where it was measured. In a busy engine that is right: a thread that sleeps at a barrier has
to be woken, and loses its core to others meanwhile (steps of 16 requests took half as long again with a tenth of it). When somebody
asks alone it is wrong: the prompt's step takes all threads, the next one takes one, and the others keep the cores that the first
token's way to its caller needs, through five threads.

libgomp reads the number from the environment when a process starts, and has no call for it. So it is found in libgomp's memory, by a
number that nobody else writes there (`MANY_SPINS`, which `vllm_launch` puts into the environment), and written there. Where it is not found,
or the operator has set one, it stays as it is. Owns that number only; `cpu_steps` says which steps are lonely.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from serving_service.engine.vllm_launch import MANY_SPINS

FEW_SPINS = 30_000
_SIZE = 8
"""Bytes of an unsigned long long."""


class Spinning:
    """Sets the number for all threads of this process; `found` makes one.

    Args:
        address: of libgomp's number.
    """

    def __init__(self, address: int) -> None:
        self._spins = ctypes.c_ulonglong.from_address(address)

    def set(self, *, few: bool) -> None:
        """Holds from the next loop's end on: who looks for work already goes on."""
        self._spins.value = FEW_SPINS if few else MANY_SPINS


def found() -> Spinning | None:
    """Finds it in the OpenMP that torch computes with (a process can have more than one); None where that is not sure."""
    if os.environ.get("GOMP_SPINCOUNT") != str(MANY_SPINS):
        return None
    places = [address for start, end in _writable() for address in _holding(MANY_SPINS, start, end)]
    return Spinning(places[0]) if len(places) == 1 else None


def _writable() -> list[tuple[int, int]]:
    """The writable memory of that library, what follows its file's pages directly included."""
    torch_itself = Path(torch.__path__[0], "lib", "libtorch_cpu.so")
    if not torch_itself.exists():
        return []
    code = ctypes.cast(ctypes.CDLL(str(torch_itself)).GOMP_parallel, ctypes.c_void_p).value or 0
    maps = [_Map.of(line) for line in Path("/proc/self/maps").read_text().splitlines()]
    library = next((one.file for one in maps if one.start <= code < one.end), "")
    regions, last = list[tuple[int, int]](), 0
    for one in maps:
        if library and (one.file == library or (not one.file and one.start == last)):
            last = one.end
            if one.writable:
                regions.append((one.start, one.end))
    return regions


@dataclass(frozen=True, slots=True)
class _Map:
    """A line of /proc/self/maps; `file` is empty for memory that is no file's."""

    start: int
    end: int
    writable: bool
    file: str

    @classmethod
    def of(cls, line: str) -> "_Map":
        addresses, rights, *rest = line.split(maxsplit=5)
        start, end = addresses.split("-")
        return cls(int(start, 16), int(end, 16), rights.startswith("rw"), rest[3] if len(rest) > 3 else "")


def _holding(number: int, start: int, end: int) -> list[int]:
    """Addresses in a region that hold a number, as one that is aligned."""
    held, wanted = ctypes.string_at(start, end - start), number.to_bytes(_SIZE, "little")
    return [start + offset for offset in range(0, end - start, _SIZE) if held.startswith(wanted, offset)]
