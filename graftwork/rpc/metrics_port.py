"""A port of its own for the metrics of a service that has no other HTTP port (trainer, registry).

Owns the port. Does not own the metrics (`observing`); the serving service shows its own beside its probes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.process_collector import ProcessCollector

from graftwork.rpc.observing import CallMetrics, CallObserver


@dataclass(frozen=True, slots=True)
class Exposed:
    """Observers for `build_server`, and the port that shows what they count; 0 when none does."""

    observers: tuple[CallObserver, ...]
    port: int


@contextmanager
def expose_metrics(host: str, port: int | None) -> Iterator[Exposed]:
    """Shows a server's call metrics, and `process_*`, at http://host:port/metrics for as long as the block lasts.

    They carry no tenant's data, and need no key: keep the port away from strangers.

    Args:
        host: address to listen on.
        port: 0 takes any free port; None counts and shows nothing.

    Raises:
        OSError: the address is taken or not ours.
    """
    if port is None:
        yield Exposed((), 0)
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = CallMetrics(registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}:{port} for metrics ({error.strerror}): stop what has the port, or set another "
            "metrics port (0 takes any free one)"
        ) from error
    try:
        yield Exposed((metrics,), server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
