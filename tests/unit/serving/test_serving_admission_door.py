"""The door: what a request sees that waits, is cancelled, runs out of time, or meets a stop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from adapter_store.errors import NotFound, StoreUnavailable
from serving_service.core.admission import Admission, AdmissionCounts, Admitted, Wish
from serving_service.core.admission_limits import AdmissionLimits, TenantPolicy
from serving_service.core.deadlines import within
from serving_service.core.errors import DeadlinePassed, Draining, QueueFull, RateLimited

ONE = AdmissionLimits(running=1, newcomers=0, waiting=2, adapters=1, overtakes=4, overtake_seconds=1.0)
EMPTY = AdmissionCounts(running=0, waiting=0, adapters=0)


class Door:
    """An admission with a hand-driven clock, and tenants' policies to be changed."""

    def __init__(self, limits: AdmissionLimits = ONE) -> None:
        self.now, self.policies = 0.0, dict[str, TenantPolicy]()
        self.admission = Admission(limits, self._policy, lambda: self.now)

    async def _policy(self, tenant: str) -> TenantPolicy:
        return self.policies.get(tenant, TenantPolicy())

    @contextlib.asynccontextmanager
    async def occupied(self, tenant: str = "flood") -> AsyncIterator[Admitted]:
        async with self.admission.admit(Wish(tenant, None, 1)) as admitted:
            yield admitted

    async def waiting(self, tenant: str = "acme", deadline: float | None = None) -> "asyncio.Task[float]":
        """Starts a request, and returns it once it waits or was refused; its result is its queue time."""

        async def run() -> float:
            async with self.admission.admit(Wish(tenant, f"{tenant}/a", 1, deadline=deadline)) as admitted:
                return admitted.queue_ms

        task = asyncio.create_task(run())
        await asyncio.sleep(0)  # nothing before the wait itself suspends
        return task


async def test_waiting_is_measured_and_everything_is_given_back() -> None:
    door = Door()
    async with door.occupied() as first:
        assert first.queue_ms == 0
        task = await door.waiting()
        door.now = 1.5
    assert await task == pytest.approx(1500)
    assert door.admission.counts() == EMPTY


async def test_a_cancelled_request_leaves_nothing_and_frees_its_place() -> None:
    door = Door()
    async with door.occupied():
        tasks = [await door.waiting(), await door.waiting()]
        with pytest.raises(QueueFull):
            await (await door.waiting())
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        assert tasks[0].cancelled()
        third = await door.waiting()
        assert not third.done()
    await asyncio.gather(tasks[1], third)
    assert door.admission.counts() == EMPTY


async def test_cancelled_in_the_moment_of_being_admitted() -> None:
    """The place was given to a request whose task is being cancelled: it goes on to the next."""
    door = Door()
    occupied = door.occupied()
    await occupied.__aenter__()
    first, second = await door.waiting(), await door.waiting()
    await occupied.__aexit__(None, None, None)  # admits the first, whose task has not run yet
    first.cancel()
    assert await second == 0
    assert first.cancelled()
    assert door.admission.counts() == EMPTY


async def test_names_that_mean_nothing_count_as_requests() -> None:
    """What is found is counted where it enters, and not twice; a store that is away is nobody's request."""
    door = Door()
    door.policies["acme"] = TenantPolicy(requests_per_minute=2)
    for error in (NotFound("x"), StoreUnavailable("x"), NotFound("x")):
        with pytest.raises(type(error)):
            async with door.admission.naming("acme"):
                raise error
    with pytest.raises(RateLimited) as refused:
        async with door.admission.naming("acme"):
            raise AssertionError("searched for a caller that may send nothing")
    door.now += refused.value.retry_after_seconds
    async with door.admission.naming("acme"):
        pass
    async with door.occupied("acme"):
        pass
    with pytest.raises(RateLimited):
        async with door.admission.naming("acme"):
            pass
    async with door.admission.naming("other"):
        pass


async def test_a_failing_request_gives_its_place_back() -> None:
    door = Door()
    with pytest.raises(ZeroDivisionError):
        async with door.occupied():
            raise ZeroDivisionError
    assert door.admission.counts() == EMPTY


async def test_a_deadline_ends_the_wait_when_it_passes() -> None:
    door = Door()
    async with door.occupied():
        began = time.monotonic()
        task = await door.waiting(deadline=began + 0.05)
        with pytest.raises(DeadlinePassed, match="waited for its turn"):
            await task
        assert time.monotonic() >= began + 0.05
        assert door.admission.counts() == replace(EMPTY, running=1)


async def test_a_deadline_that_has_passed_does_not_wait_at_all() -> None:
    door = Door()
    async with door.occupied():
        with pytest.raises(DeadlinePassed):
            await (await door.waiting(deadline=time.monotonic() - 1))


async def test_somebody_elses_time_limit_is_not_the_callers_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with within(time.monotonic() + 60, "nothing happened"):
            raise TimeoutError


async def test_a_stop_turns_away_who_waits_and_lets_the_rest_end() -> None:
    door = Door()
    async with door.occupied():
        task = await door.waiting()
        door.admission.close()
        with pytest.raises(Draining):
            await task
        with pytest.raises(Draining):
            async with door.occupied():
                pass
        assert door.admission.counts().running == 1
    assert door.admission.counts() == EMPTY


async def test_over_a_rate_the_error_says_when_and_others_notice_nothing() -> None:
    door = Door(replace(ONE, running=4))
    door.policies["acme"] = TenantPolicy(requests_per_minute=1)
    async with door.occupied("acme"):
        pass
    with pytest.raises(RateLimited) as refused:
        async with door.occupied("acme"):
            pass
    assert refused.value.retry_after_seconds == pytest.approx(60)
    async with door.occupied("globex"):
        pass
    door.now = 60
    async with door.occupied("acme"):
        pass


async def test_the_operators_have_no_limits_and_a_turn_of_their_own() -> None:
    door = Door()
    async with door.occupied("flood"):
        task = await door.waiting("")
    await task


async def test_tokens_are_charged_as_they_are_served() -> None:
    door = Door(replace(ONE, running=4))
    door.policies["acme"] = TenantPolicy(tokens_per_minute=60)
    async with door.occupied("acme") as admitted:
        admitted.rendered(31)
        admitted.served(30)
    with pytest.raises(RateLimited) as refused:
        async with door.occupied("acme"):
            pass
    assert refused.value.retry_after_seconds == pytest.approx(2)


async def test_a_prompt_that_never_reached_the_engine_is_not_charged() -> None:
    door = Door()
    door.policies["acme"] = TenantPolicy(tokens_per_minute=60)
    for _ in range(3):
        async with door.admission.admit(Wish("acme", None, 60)):
            pass


async def test_a_displaced_request_is_told_so() -> None:
    door = Door()
    async with door.occupied():
        tasks = [await door.waiting("flood"), await door.waiting("flood")]
        quiet = await door.waiting("quiet")
        with pytest.raises(QueueFull):
            await tasks[1]
    await asyncio.gather(tasks[0], quiet)
    assert door.admission.counts() == EMPTY


async def test_a_request_that_comes_again_is_charged_once_and_never_refused() -> None:
    """It lost what it ran on: what it was charged is taken back, and neither a limit nor a full queue keeps it out."""
    door = Door(replace(ONE, waiting=0))
    door.policies["acme"] = TenantPolicy(requests_per_minute=1, tokens_per_minute=100, queue_length=1)
    async with contextlib.AsyncExitStack() as held:
        first = await held.enter_async_context(door.admission.admit(Wish("acme", None, 5)))
        first.rendered(50)
        first.served(60)
        first.annul(60)
        await held.aclose()
        async with door.occupied():

            async def again() -> None:
                async with door.admission.admit(Wish("acme", "acme/a", 50, again=True)) as admitted:
                    admitted.rendered(50)

            task = asyncio.create_task(again())
            await asyncio.sleep(0)
            assert door.admission.counts().waiting == 1
            with pytest.raises(QueueFull):
                await (await door.waiting("initech"))
        await task
    door.policies["acme"] = TenantPolicy(tokens_per_minute=100)
    async with door.admission.admit(Wish("acme", None, 50)):
        pass
    with pytest.raises(RateLimited):
        async with door.admission.admit(Wish("acme", None, 51)):
            pass
    assert door.admission.counts() == EMPTY
