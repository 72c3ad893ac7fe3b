"""A histogram for what happens with every token: prometheus_client's own takes a lock and walks its buckets each time.

Owns the counts. Counted and collected on the event loop only.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class ManySeconds(Collector):
    """Counts seconds by size.

    Args:
        name: of the metric.
        text: its help.
        buckets: their upper bounds, ascending, without infinity.
    """

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self._name, self._text, self._bounds = name, text, tuple(buckets)
        self._counts, self._sum = [0] * (len(buckets) + 1), 0.0

    def count(self, seconds: Iterable[float]) -> None:
        """Takes further ones in; a bound belongs to its bucket."""
        for one in seconds:
            self._counts[bisect_left(self._bounds, one)] += 1
            self._sum += one

    def collect(self) -> Iterator[Metric]:
        below, rows = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            rows.append((str(floatToGoString(bound)), below))  # type: ignore[no-untyped-call]
        metric = HistogramMetricFamily(self._name, self._text)
        metric.add_metric([], rows, self._sum)
        yield metric
