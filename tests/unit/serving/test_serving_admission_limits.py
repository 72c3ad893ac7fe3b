"""Token buckets: never fuller than a minute's worth, exact about when there is room, exact in the long run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_service.core.admission_limits import TenantPolicy, TenantRates, TokenBucket
from serving_service.core.errors import RateLimited

EVENTS = st.lists(st.tuples(st.floats(0, 100), st.integers(-50, 200)), max_size=30)


@given(per_minute=st.integers(1, 10_000), events=EVENTS, resized=st.integers(1, 10_000))
def test_a_bucket_is_never_fuller_than_its_capacity(
    per_minute: int, events: list[tuple[float, int]], resized: int
) -> None:
    bucket, now = TokenBucket(per_minute, 0.0), 0.0
    for number, (seconds, amount) in enumerate(events):
        now += seconds
        if number == 3:
            bucket.resize(resized, now)
        bucket.take(amount, now)
        assert bucket.level(now) <= bucket.capacity


@given(per_minute=st.integers(1, 10_000), taken=st.integers(0, 50_000), amount=st.integers(1, 20_000))
def test_waiting_for_as_long_as_told_is_enough_and_no_less_is(per_minute: int, taken: int, amount: int) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    bucket.take(taken, 0.0)
    wait = bucket.seconds_until(amount, 0.0)
    if wait > 0.01:
        assert bucket.seconds_until(amount, wait * 0.99) > 0
    assert bucket.seconds_until(amount, wait) == 0


@given(arrivals=st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_no_more_requests_pass_than_a_minutes_worth_and_the_rate(arrivals: list[float]) -> None:
    rates, now, passed = TenantRates("acme", TenantPolicy(requests_per_minute=10), 0.0), 0.0, 0
    for gap in arrivals:
        now += gap
        try:
            rates.enter(1, now)
        except RateLimited:
            continue
        passed += 1
    assert passed <= 10 + now * 10 / 60 + 1e-6


def test_the_error_says_which_limit_and_when() -> None:
    rates = TenantRates("acme", TenantPolicy(requests_per_minute=2, tokens_per_minute=600), 0.0)
    rates.enter(300, 0.0)
    with pytest.raises(RateLimited, match=r"acme .* 600 tokens a minute.* 10\.0 s") as tokens:
        rates.enter(400, 0.0)
    assert tokens.value.retry_after_seconds == pytest.approx(10)
    rates.enter(100, 0.0)
    with pytest.raises(RateLimited, match="2 requests a minute") as requests:
        rates.enter(1, 0.0)
    assert requests.value.retry_after_seconds == pytest.approx(30)


def test_a_refused_request_costs_nothing() -> None:
    rates = TenantRates("acme", TenantPolicy(requests_per_minute=10, tokens_per_minute=60), 0.0)
    rates.enter(60, 0.0)
    for _ in range(20):
        with pytest.raises(RateLimited):
            rates.enter(1, 0.0)
    rates.enter(1, 1.0)


def test_an_answer_may_overdraw_and_is_paid_back() -> None:
    """Charged as served: what runs is not cut off, what comes next waits until the debt is gone."""
    rates = TenantRates("acme", TenantPolicy(tokens_per_minute=60), 0.0)
    rates.enter(10, 0.0)
    rates.charge(110, 0.0)
    with pytest.raises(RateLimited) as refused:
        rates.enter(1, 0.0)
    assert refused.value.retry_after_seconds == pytest.approx(61)


def test_a_prompt_larger_than_a_minutes_worth_needs_a_full_bucket_and_not_for_ever() -> None:
    rates = TenantRates("acme", TenantPolicy(tokens_per_minute=60), 0.0)
    rates.enter(500, 0.0)
    with pytest.raises(RateLimited) as refused:
        rates.enter(500, 0.0)
    assert refused.value.retry_after_seconds == pytest.approx(500)


def test_a_raised_limit_gives_the_difference_at_once_and_a_lifted_one_everything() -> None:
    rates = TenantRates("acme", TenantPolicy(requests_per_minute=1), 0.0)
    rates.enter(1, 0.0)
    rates.update(TenantPolicy(requests_per_minute=3), 0.0)
    rates.enter(1, 0.0)
    rates.enter(1, 0.0)
    with pytest.raises(RateLimited):
        rates.enter(1, 0.0)
    rates.update(TenantPolicy(), 0.0)
    rates.enter(10**9, 0.0)
