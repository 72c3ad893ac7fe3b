"""A network to the store that may be cut, and may be slow.

A proxy rather than netem: it needs neither rights nor a kernel module, and delays this connection and no other.
"""

import random
import socket
import threading
from contextlib import suppress

from tests.contract.cuttable_proxy import CuttableProxy

_PIECE = 16 << 10


class SlowProxy(CuttableProxy):
    """Delays each piece of at most 16 KiB, either way, by `delay_s` give or take half of it."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.delay_s = 0.0
        self._never = threading.Event()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        chance = random.Random()  # how long a packet takes is not part of what a seed repeats
        with suppress(OSError):
            while data := source.recv(_PIECE):
                if self.delay_s:
                    self._never.wait(self.delay_s * chance.uniform(0.5, 1.5))
                target.sendall(data)
        with self._lock:
            self._open -= {source, target}
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
