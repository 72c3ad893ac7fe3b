"""Python beside the steps of a GPU's engine, in small pieces.

A step on a GPU is Python, for a small model nearly all of it, and so is staging: they take turns on Python's lock. A step that asks for
it back a hundred times while somebody computes takes twice as long, and everybody's token with it; one that meets a piece of 0.15 ms or
two does not. So threads that stage rest after each such piece, longer than it took.

Owns when. Who rests says so at places where it can.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

PIECE_S = 0.00015
REST_S = 0.001
_T = TypeVar("_T")


class _Thread(threading.local):
    paced = False
    until = 0.0


_this = _Thread()


def begin() -> None:
    """From now on this thread rests."""
    _this.paced = True


def rest() -> None:
    """Rests if this thread does and a piece is over."""
    if _this.paced and time.monotonic() > _this.until:
        time.sleep(REST_S)
        _this.until = time.monotonic() + PIECE_S


def paced(items: Iterable[_T]) -> Iterator[_T]:
    """Goes through them, resting between."""
    for item in items:
        rest()
        yield item


class Paced(dict[str, _T]):
    """A dict through whose items a loop goes so."""

    def items(self) -> Iterator[tuple[str, _T]]:  # type: ignore[override]
        return paced(super().items())
