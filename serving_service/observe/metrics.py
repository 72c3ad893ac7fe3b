"""Prometheus metrics of the serving service, in a registry of their own.

Owns names, labels and their bounds: a tenant is a label for the first `max_tenants` that came, the rest are 'other';
adapters and versions never are. Does not own where they are shown (`api.http.health`). docs/operations.md lists them all,
and a test holds the list to what a live service shows.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

from graftwork.rpc.observing import BUCKETS_S
from serving_service.core.observing import (
    AutoChange,
    CallEnded,
    CutOver,
    Evicted,
    Loaded,
    MergedFailed,
    MergedWeights,
    Produced,
    Seen,
    Stage,
)
from serving_service.observe.many_seconds import ManySeconds

OTHER = "other"
"""The label of tenants beyond the bound. No tenant is lost by sharing it with one of that name: metrics are no invoice."""
OPERATOR = "-"
"""The label of an operator's own requests; no tenant can have that name."""
NONE = "none"
_GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)


class Bounded:
    """Keeps a label to a bounded number of values.

    Args:
        most: values that get a name of their own, first come, first served, until the process ends.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, value: str) -> str:
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


class ServingMetrics:
    """Counts what it sees; implements `core.observing.Observer`.

    Args:
        registry: where the metrics go; never the global one.
        max_tenants: how many get a label of their own.
    """

    def __init__(self, registry: CollectorRegistry, max_tenants: int) -> None:
        self._tenants = Bounded(max_tenants)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=BUCKETS_S)

        self._requests = counter("graft_requests", "Generations that ended", "tenant", "route", "outcome")
        self._rejections = counter("graft_rejections", "Generations refused before their first token", "reason")
        self._prompt = counter("graft_prompt_tokens", "Tokens of prompts that reached the engine", "tenant")
        self._completion = counter("graft_completion_tokens", "Tokens generated", "tenant")
        self._total = seconds("graft_request_seconds", "Length of generations, from arrival", "route")
        self._first = seconds("graft_first_token_seconds", "Arrival to first token", "tier")
        self._gap = ManySeconds("graft_token_gap_seconds", "Between two pieces of one answer", _GAPS_S)
        registry.register(self._gap)
        self._resolve = seconds("graft_resolve_seconds", "Finding the version that a model name means")
        self._queue = seconds("graft_queue_seconds", "Waiting in admission")
        self._load = seconds("graft_load_seconds", "Bringing an adapter into a tier, from the one below", "tier")
        self._evictions = counter("graft_evictions", "Adapters that left a tier", "tier")
        self._merges = seconds(
            "graft_merge_seconds", "Bringing merged weights, by merging here or from the store", "source"
        )
        self._cut_over = seconds("graft_cutover_seconds", "From the beginning of a merge to its first request")
        self._merged_failures = counter(
            "graft_merged_failures", "Versions that could not be merged, and merged engines that died", "state", "error"
        )
        self._auto_changes = counter(
            "graft_merged_auto_changes", "Merged engines that an alias's traffic won or lost", "change"
        )
        self._evicted = counter("graft_evicted_bytes", "Bytes freed by evictions", "tier")

    def see(self, event: Seen) -> None:
        match event:
            case Produced():
                self._gap.count(event.gaps)
            case CallEnded():
                self._ended(event)
            case Loaded():
                self._load.labels(event.tier.value).observe(event.seconds)
            case Evicted():
                self._evictions.labels(event.tier.value).inc()
                self._evicted.labels(event.tier.value).inc(event.bytes)
            case MergedWeights():
                self._merges.labels("store" if event.from_store else "merged").observe(event.seconds)
            case CutOver():
                self._cut_over.observe(event.seconds)
            case AutoChange():
                self._auto_changes.labels("promoted" if event.promoted else "demoted").inc()
            case MergedFailed():
                self._merged_failures.labels(event.state, event.error).inc()  # both closed sets
            case _:
                pass

    def _ended(self, call: CallEnded) -> None:
        tenant, route = self._tenants.label(call.tenant or OPERATOR), call.route or NONE
        self._requests.labels(tenant, route, call.outcome).inc()
        self._prompt.labels(tenant).inc(call.prompt_tokens)
        self._completion.labels(tenant).inc(call.completion_tokens)
        self._total.labels(route).observe(call.total_seconds)
        if call.first_token_seconds is not None:
            self._first.labels(call.tier.value if call.tier else NONE).observe(call.first_token_seconds)
        elif call.error:
            self._rejections.labels(call.error).inc()  # the class's name: a closed set, as the code is
        for stage, histogram in ((Stage.RESOLVE, self._resolve), (Stage.QUEUE, self._queue)):
            if stage in call.seconds:
                histogram.observe(call.seconds[stage])
