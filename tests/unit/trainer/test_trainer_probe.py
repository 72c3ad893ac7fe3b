"""The probe's comparison: what is served as trained passes, in every precision; what is not, does not."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.core.events import ProbeOutcome
from trainer_service.core.probe import FLOOR, Scores, compare

TOKENS = 400


def scores(adapter: Sequence[float], base: Sequence[float]) -> Scores:
    """Of one row."""
    return Scores((tuple(adapter),), (tuple(base),))


def model(doubts: list[float]) -> list[float]:
    """Log-probabilities of tokens that are believed with 1 - doubt."""
    return [math.log1p(-doubt) for doubt in doubts]


def noisy(logprobs: list[float], size: float, seed: int) -> tuple[float, ...]:
    """The same through another engine: noise in the logits, which moves a token by its doubt."""
    source = random.Random(seed)
    return tuple(min(0.0, value + source.gauss(0, size) * (1 - math.exp(value))) for value in logprobs)


def worlds(base_doubt: float, adapter_doubt: float, seed: int) -> tuple[list[float], list[float]]:
    source = random.Random(seed)
    base = model([min(0.9999, max(1e-6, source.gauss(base_doubt, 0.05))) for _ in range(TOKENS)])
    adapter = model([min(0.9999, max(1e-6, source.gauss(adapter_doubt, 0.01))) for _ in range(TOKENS)])
    return base, adapter


@given(
    noise=st.sampled_from([0.0, 1e-5, 0.01, 0.05, 0.3]),
    base_doubt=st.floats(0.3, 0.95),
    adapter_doubt=st.floats(0.01, 0.5),
    seed=st.integers(0, 10_000),
)
def test_the_same_adapter_through_another_engine_passes(
    noise: float, base_doubt: float, adapter_doubt: float, seed: int
) -> None:
    base, adapter = worlds(base_doubt, adapter_doubt, seed)
    served = scores(noisy(adapter, noise, seed + 1), noisy(base, noise, seed + 2))
    found = compare(scores(adapter, base), served, bits=4)
    assert found.outcome is ProbeOutcome.PASSED, found.message
    assert found.tokens == TOKENS
    assert found.distance <= found.tolerance


@given(
    noise=st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    kept=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_an_adapter_that_is_missing_or_half_applied_fails(noise: float, kept: float, seed: int) -> None:
    base, adapter = worlds(0.9, 0.02, seed)
    wrong = [kept * one + (1 - kept) * other for one, other in zip(adapter, base, strict=True)]
    served = scores(noisy(wrong, noise, seed + 1), noisy(base, noise, seed + 2))
    found = compare(scores(adapter, base), served, bits=4)
    assert found.outcome is ProbeOutcome.FAILED
    assert "nats a token" in found.message


@pytest.mark.parametrize(
    ("bits", "distance", "base_distance", "outcome"),
    [
        # Seen with the shipped backbone and a demo adapter; see the module's docstring.
        (16, 6e-8, 4e-6, ProbeOutcome.PASSED),
        (16, 0.00037, 0.0373, ProbeOutcome.PASSED),
        (16, 0.02773, 0.0, ProbeOutcome.FAILED),  # three quarters of its scale
        (4, 0.0039, 0.317, ProbeOutcome.PASSED),
        (4, 0.245, 0.317, ProbeOutcome.FAILED),  # half of its scale
        (4, 7.53, 0.317, ProbeOutcome.FAILED),  # not applied
        (16, 0.0039, 0.317, ProbeOutcome.FAILED),  # a base that nothing explains
    ],
)
def test_measured_cases(bits: int, distance: float, base_distance: float, outcome: ProbeOutcome) -> None:
    adapter, base = [math.log(1 - 0.0115)] * 10, [-7.5] * 10
    served = scores([value - distance for value in adapter], [value - base_distance for value in base])
    assert compare(scores(adapter, base), served, bits=bits).outcome is outcome


def test_an_adapter_too_weak_to_tell_from_its_base_passes_on_agreement_alone() -> None:
    own = scores([-1.0] * 10, [-1.0 - FLOOR / 2] * 10)
    assert compare(own, own, bits=16).outcome is ProbeOutcome.PASSED


@pytest.mark.parametrize(("adapter", "base"), [([], []), ([math.nan] * 10, [math.nan] * 10), ([-1.0], [-1.0])])
def test_numbers_that_are_none_fail(adapter: list[float], base: list[float]) -> None:
    found = compare(scores([-0.1] * 10, [-2.0] * 10), scores(adapter, base), bits=16)
    assert found.outcome is ProbeOutcome.FAILED


def test_rows_that_were_not_asked_for_are_left_out() -> None:
    own = Scores(adapter=((-0.1, -0.2), (-9.0,), (-0.3,)), base=((-2.0, -2.0), (-9.0,), (-2.0,)))
    served = Scores(adapter=((-0.1, -0.2), (-0.3,)), base=((-2.0, -2.0), (-2.0,)))
    found = compare(own.of([0, 2]), served, bits=16)
    assert (found.outcome, found.rows, found.tokens, found.distance) == (ProbeOutcome.PASSED, 2, 3, 0.0)
