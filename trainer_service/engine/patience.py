"""Waiting for a store that is away, without giving up the device at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from adapter_store.errors import StoreUnavailable
from trainer_service.core.events import Notice, NoticeLevel

T = TypeVar("T")
_LONGEST_PAUSE = 5.0  # seconds between two tries


@dataclass(frozen=True)
class Patience:
    """How long the job's own process waits, and whom it tells."""

    seconds: float
    send: Callable[[Notice], None]

    def call(self, what: str, call: Callable[[], T]) -> T:
        """Calls again and again while the store does not answer; everything that is called may be repeated.

        Args:
            what: for the notice, as in 'fetch the data set'.
            call: the work.

        Raises:
            StoreUnavailable: for `seconds`; the job then gives its place up and waits in the queue.
        """
        deadline, pause, told = time.monotonic() + self.seconds, 0.2, False
        while True:
            try:
                return call()
            except StoreUnavailable as error:
                if time.monotonic() + pause > deadline:
                    raise
                if not told:
                    text = f"cannot {what}: {error}; trying again for {self.seconds:g} s"
                    self.send(Notice(level=NoticeLevel.WARNING, message=text))
                    told = True
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
