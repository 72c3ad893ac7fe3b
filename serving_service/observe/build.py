"""Puts the observing parts together as the settings say.

Owns which there are. Does not own any of them.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from graftwork.rpc.observing import CallMetrics, CallObserver
from serving_service.core.observing import Observer, Observers
from serving_service.observe.access_log import AccessLog
from serving_service.observe.gauges import Observed, StateCollector
from serving_service.observe.loop_lag import LoopLag
from serving_service.observe.metrics import ServingMetrics
from serving_service.observe.tracing import Tracing, export_to
from serving_service.settings import ServingSettings


@dataclass(frozen=True, slots=True)
class Observation:
    """All that watches one service.

    Attributes:
        registry: of its metrics.
        observer: for the core.
        calls: for the gRPC and HTTP servers.
        lag: to be run for as long as the service lives.
        tracing: None when nobody collects traces.
    """

    registry: CollectorRegistry
    observer: Observer
    calls: tuple[CallObserver, ...]
    lag: LoopLag
    tracing: Tracing | None

    def watch(self, serving: Observed) -> None:
        """Shows a service's states among the metrics."""
        self.registry.register(StateCollector(serving))

    def close(self) -> None:
        """Sends the spans that are left; blocks for some seconds at most."""
        if self.tracing:
            self.tracing.close()


def observe(settings: ServingSettings) -> Observation:
    """Makes the parts."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    tracing = export_to(settings.traces_url, settings.otlp_protocol) if settings.traces_url else None
    observers: list[Observer] = [ServingMetrics(registry, settings.metrics_tenants), AccessLog()]
    calls: list[CallObserver] = [CallMetrics(registry)]
    if tracing:
        observers.append(tracing)
        calls.append(tracing)
    return Observation(registry, Observers(observers), tuple(calls), LoopLag(registry), tracing)
