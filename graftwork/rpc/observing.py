"""Those who watch calls: what a server tells them, and the metrics that every service of ours has of its calls.

Owns the protocol. `CallMetrics` is its Prometheus side; tracing is each service's own.
"""

import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Of every histogram of seconds: from a cached answer to a long generation."""


class CallObserver(Protocol):
    """Watches calls. What it raises fails the call: it must not raise."""

    def began(self, method: str) -> Callable[[str], None]:
        """A call came in; `graftwork.trace_context` has what its caller sent.

        Args:
            method: `/package.Service/Method`, one that the server has.

        Returns:
            What is called once, with the name of the call's status.
        """
        ...


class CallMetrics:
    """Counts and times calls.

    Args:
        registry: where the metrics go; never the global one.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("service", "method")
        self._calls = Counter("graft_rpc_calls", "gRPC calls that ended", (*labels, "status"), registry=registry)
        self._seconds = Histogram(
            "graft_rpc_seconds", "Length of gRPC calls", labels, registry=registry, buckets=BUCKETS_S
        )

    def began(self, method: str) -> Callable[[str], None]:
        start = time.monotonic()
        service, _, name = method.strip("/").rpartition("/")

        def ended(status: str) -> None:
            self._calls.labels(service, name, status).inc()
            self._seconds.labels(service, name).observe(time.monotonic() - start)

        return ended
