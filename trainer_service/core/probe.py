"""Does the served adapter answer like the trainer's model? The comparison, as numbers.

Compared are log-probabilities of the same response tokens of the same held-out rows, from four models: the trainer's
with and without the adapter, and the serving service's with and without it. All distances are means of |difference|
in nats a token.

The tolerance is measured, not guessed. What the two engines differ by *without* an adapter (kernels, the order of
sums, bfloat16 beside float32 and, largest of all, a base that was 4-bit in training and is not in serving) shows as
the distance between the two bases, `base_distance`, on the very same tokens. The same causes act with the adapter, on
other tokens' probabilities: d log p = sum over the vocabulary of (1[y] - p) d logit, so noise in the logits moves a
token's log-probability in proportion to 1 - p, its doubt. Hence

    tolerance = FLOOR + TIMES * base_distance * mean doubt with the adapter / mean doubt without it

FLOOR is for engines that agree on the base to the last bit and still sum an adapter in another order. Measured with
the shipped backbone and a demo adapter: predicted 0.0006 and found 0.0004 (bfloat16 served, float32 trained),
predicted 0.0050 and found 0.0039 (NF4 trained, base distance 0.32), found 6e-8 in float32. An adapter that is missing
is off by 7.5, one of half or twice its scale by 0.24 to 1.9, of three quarters by 0.028 (above the 16-bit tolerance
of 0.012).

A base distance above its own bound means that the two services do not run the same backbone in any useful sense.

Pure. Owns neither the models (`engine.probe`) nor the calls (`engine.serving_client`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from trainer_service.core.events import Probed, ProbeOutcome

FLOOR = 0.01
TIMES = 4.0
MAX_BASE_DISTANCE = {16: 0.25, 4: 1.0}
"""By the bits of the base in training."""


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """A held-out row: its tokens, and which of them are the response's."""

    ids: tuple[int, ...]
    response: tuple[int, ...]
    """Places in `ids`; never 0, as nothing comes before the first token."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of each row's response tokens, by one engine."""

    adapter: tuple[tuple[float, ...], ...]
    base: tuple[tuple[float, ...], ...]

    def of(self, rows: Sequence[int]) -> "Scores":
        """Returns those of some rows."""
        return Scores(tuple(self.adapter[row] for row in rows), tuple(self.base[row] for row in rows))


def compare(own: Scores, served: Scores, *, bits: int) -> Probed:
    """Judges what was measured.

    Args:
        own: the trainer's.
        served: the serving service's, of the same tokens.
        bits: of the base in training.
    """
    own_adapter, own_base = list(chain(*own.adapter)), list(chain(*own.base))
    adapter, base = list(chain(*served.adapter)), list(chain(*served.base))
    distance, base_distance = _distance(own_adapter, adapter), _distance(own_base, base)
    effect, trained = _distance(adapter, base), _distance(own_adapter, own_base)
    tolerance = FLOOR + TIMES * base_distance * _doubt(own_adapter) / max(_doubt(own_base), 1e-6)

    def probed(outcome: ProbeOutcome, message: str) -> Probed:
        return Probed(
            outcome=outcome,
            message=message,
            rows=len(own.adapter),
            tokens=len(own_adapter),
            distance=distance,
            tolerance=tolerance,
            base_distance=base_distance,
            effect=effect,
        )

    # Written so that NaN fails: every comparison with it is false.
    if not base_distance <= MAX_BASE_DISTANCE[bits]:
        return probed(
            ProbeOutcome.FAILED,
            f"without any adapter the serving service is {base_distance:.3f} nats a token from the trainer's base "
            f"(at most {MAX_BASE_DISTANCE[bits]:g}): the two do not run the same backbone",
        )
    if not distance <= tolerance:
        return probed(
            ProbeOutcome.FAILED,
            f"the served adapter is {distance:.3f} nats a token from the trainer's model, at most {tolerance:.3f} are allowed "
            f"(served, it differs from the base by {effect:.3f}; in training by {trained:.3f})",
        )
    if trained > 2 * tolerance and not effect > distance:
        return probed(
            ProbeOutcome.FAILED,
            f"the served adapter is no further from the base ({effect:.3f} nats a token) than from what was trained "
            f"({distance:.3f})",
        )
    return probed(
        ProbeOutcome.PASSED,
        f"served as trained: {distance:.4f} nats a token apart (at most {tolerance:.3f}), {effect:.3f} from the base",
    )


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    if len(one) != len(other) or not one:
        return math.nan
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def _doubt(logprobs: Sequence[float]) -> float:
    return sum(1 - math.exp(value) for value in logprobs) / max(1, len(logprobs))
