"""The metrics that are states rather than events: read from the service at each scrape, so that they cannot be stale.

Owns their names. Does not own the states.
"""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving_service.core.adapter_entry import Census
from serving_service.core.admission import AdmissionCounts
from serving_service.core.fast_path.life import State
from serving_service.core.readiness import ModelState, Readiness
from serving_service.core.service import About


class Observed(Protocol):
    """The part of `core.service.Serving` that is read; on the event loop, without waiting."""

    def readiness(self) -> Readiness: ...

    def about(self) -> About: ...

    def census(self) -> Census: ...

    def merged_census(self) -> dict[State, int]: ...

    def admission_counts(self) -> AdmissionCounts: ...

    @property
    def running(self) -> int: ...


class StateCollector(Collector):
    """Shows a service's states. Collect on the event loop: that is where they change."""

    def __init__(self, serving: Observed) -> None:
        self._serving = serving

    def collect(self) -> Iterator[Metric]:
        readiness, about, census = self._serving.readiness(), self._serving.about(), self._serving.census()
        yield GaugeMetricFamily("graft_requests_running", "Generations under way", self._serving.running)
        waiting = self._serving.admission_counts().waiting
        yield GaugeMetricFamily("graft_requests_waiting", "Generations that wait for their turn", waiting)
        yield GaugeMetricFamily("graft_ready", "1 when this node should get traffic", int(readiness.ready))
        draining = int(readiness.draining.state == "yes")
        yield GaugeMetricFamily(
            "graft_draining", "1 while the node takes no new requests: it stops, or was drained", draining
        )
        reachable = int(readiness.store.state == "reachable")
        yield GaugeMetricFamily("graft_store_reachable", "1 when the store answered the last question", reachable)
        engine = GaugeMetricFamily("graft_engine_state", "1 for the state that the engine is in", labels=["state"])
        for state in ModelState:
            engine.add_metric([state.value], int(readiness.model.state == state))
        yield engine
        adapters = GaugeMetricFamily("graft_resident_adapters", "Adapters by fastest tier", labels=["tier"])
        for tier, count in census.adapters.items():
            adapters.add_metric([tier.value], count)
        yield adapters
        size = GaugeMetricFamily("graft_resident_bytes", "Bytes of adapters in a tier of this node", labels=["tier"])
        for tier, taken in census.bytes.items():
            size.add_metric([tier.value], taken)
        yield size
        merged = GaugeMetricFamily("graft_merged_engines", "Versions that are merged or are to be", labels=["state"])
        for state_, count in self._serving.merged_census().items():
            merged.add_metric([state_.value], count)
        yield merged
        build = GaugeMetricFamily(
            "graft_build_info", "1; what runs is in the labels", labels=["version", "base_digest"]
        )
        build.add_metric([about.version, about.base_digest[:12]], 1)
        yield build
