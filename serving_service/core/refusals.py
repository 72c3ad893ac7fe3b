"""The memory of versions that could not be loaded, so that a caller who asks again at once costs nothing.

Owns which failures are worth remembering and for how long. A store that is away is not one of them: it may be back.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from graftwork.errors import ErrorCode, GraftError
from serving_service.core.adapter_entry import Key

LASTING = frozenset({ErrorCode.NOT_FOUND, ErrorCode.PRECONDITION, ErrorCode.CORRUPT, ErrorCode.INVALID})
"""Codes of what the next try would meet again."""
_KEPT = 1024


class Refusals:
    """Remembers failures by key.

    Args:
        clock: seconds, monotonic.
        seconds: how long. Short, because what was damaged may be mended by an operator.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds: float = 5.0) -> None:
        self._clock, self._seconds = clock, seconds
        self._kept: OrderedDict[Key, tuple[float, GraftError]] = OrderedDict()

    def remember(self, key: Key, error: BaseException) -> None:
        """Keeps a lasting failure; ignores any other."""
        if not isinstance(error, GraftError) or error.code not in LASTING:
            return
        self._kept[key] = (self._clock() + self._seconds, error)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def check(self, key: Key) -> None:
        """Raises what was remembered of `key`, if it is recent."""
        if (known := self._kept.get(key)) is None:
            return
        until, error = known
        if until <= self._clock():
            del self._kept[key]
            return
        raise error.with_traceback(None)  # else the tracebacks of all who met it would pile up on it

    def forget(self, key: Key) -> None:
        """Lets the next try happen."""
        self._kept.pop(key, None)
