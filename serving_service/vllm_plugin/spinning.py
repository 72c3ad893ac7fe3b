"""How long OpenMP's threads look for work at the end of a loop before they sleep, changed while the engine runs.

libgomp has them look 300,000 times, 8 ms where it was measured. In a busy engine that is right: a thread that sleeps at a barrier has
to be woken, and loses its core to others meanwhile. Where somebody asks alone it is wrong: the prompt's step uses all threads and the
next one a single thread; the others go on spinning on cores that the service needs to deliver the first token.

libgomp reads the number from the environment when a process starts, and has no call for it. So it is found in libgomp's memory, by a
value that nobody else writes there (`MANY_SPINS`, which `vllm_launch` puts into the environment), and written there. Where it is not
found exactly once, or the operator has set one, it stays as it is. Owns that number only; `cpu_steps` says which steps are lonely.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from serving_service.engine.vllm_launch import MANY_SPINS
from serving_service.vllm_plugin.cpu_code import team

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
        """Holds from the end of the next loop; a thread that is spinning now keeps the old number."""
        self._spins.value = FEW_SPINS if few else MANY_SPINS


def found() -> Spinning | None:
    """Finds it in the OpenMP library that torch was linked with (a process can have others); None where that is not sure."""
    if os.environ.get("GOMP_SPINCOUNT") != str(MANY_SPINS) or (behind := team()) is None:
        return None
    code = ctypes.cast(behind.run, ctypes.c_void_p).value or 0
    try:
        maps = Path("/proc/self/maps").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    places = [place for start, end in writable_beside(code, maps) for place in _holding(MANY_SPINS, start, end)]
    return Spinning(places[0]) if len(places) == 1 else None


def writable_beside(code: int, maps: str) -> Iterator[tuple[int, int]]:
    """Yields where the library that has some code has its writable memory; what only lies behind it can be anybody's.

    Args:
        code: an address.
        maps: as /proc/self/maps has them.
    """
    areas = list[tuple[int, int, str, str]]()
    for line in maps.split("\n"):
        if len(row := line.split(maxsplit=5)) == 6:  # others are no file's
            first, last = row[0].split("-")
            areas.append((int(first, 16), int(last, 16), row[1], row[5]))
    library = next((file for start, end, _, file in areas if start <= code < end), None)
    for start, end, rights, file in areas:
        if file == library and rights.startswith("rw-"):
            yield start, end


def _holding(number: int, start: int, end: int) -> list[int]:
    """Addresses in an area that hold a number, where such a number can be."""
    held, wanted = ctypes.string_at(start, end - start), number.to_bytes(_SIZE, "little")
    return [start + offset for offset in range(0, end - start, _SIZE) if held.startswith(wanted, offset)]
