"""How late the event loop is: whatever blocks it delays every tenant's tokens, and nothing else shows that.

Owns the measurement.
"""

import asyncio
import time

from prometheus_client import CollectorRegistry, Histogram

_EVERY_S = 0.25
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class LoopLag:
    """Measures how much later than asked a task is woken.

    Args:
        registry: where the metric goes.

    Attributes:
        beat: monotonic seconds of the last wake-up.
        last: seconds that it was late.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.beat, self.last = time.monotonic(), 0.0
        self._seconds = Histogram(
            "graft_event_loop_lag_seconds",
            "How much later than asked the event loop woke a task",
            registry=registry,
            buckets=_BUCKETS_S,
        )

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            asked = time.monotonic()
            await asyncio.sleep(_EVERY_S)
            self.beat = time.monotonic()
            self.last = max(0.0, self.beat - asked - _EVERY_S)
            self._seconds.observe(self.last)
