"""What the service takes, and what one tenant may use of it: token buckets a minute, and the plain numbers beside them.

Owns the arithmetic of limits and the time until there is room again. Does not own where limits come from
(`tenant_policies`) or who runs next (`admission_queue`). Pure: the caller brings the clock.
"""

from dataclasses import dataclass

from serving_service.core.errors import RateLimited

_MINUTE = 60.0
_ROUNDING = 1e-6  # a caller that waits for exactly the time it was told must not be refused for a float's last digit


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """A tenant's limits and its share; a limit of 0 is none.

    Attributes:
        requests_per_minute: calls; up to a minute's worth at once after a quiet minute.
        tokens_per_minute: prompt and answer together; likewise.
        concurrency: requests that run at once.
        queue_length: requests that wait.
        weight: share of a busy service beside other tenants' weights.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    queue_length: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What the service as a whole takes.

    Attributes:
        running: requests at once, of all tenants.
        newcomers: further ones, so that nobody need wait for a flood's next end: half of them for tenants that run less than
            their share, all of them for tenants of whom nothing runs.
        waiting: requests that wait, of all tenants.
        adapters: distinct adapters in flight whatever runs; the engine's slots.
        overtakes: requests that an adapter in flight may admit past one that waits for a slot.
        overtake_seconds: for how long, likewise.
        in_flight: a further adapter may be in flight while fewer requests than that run on adapters; no more than `adapters`:
            never.
        fair: serve by fair order; False serves first come, first served, which is there to compare with.
    """

    running: int
    newcomers: int
    waiting: int
    adapters: int
    overtakes: int
    overtake_seconds: float
    in_flight: int = 0
    fair: bool = True


class TokenBucket:
    """Fills at a steady rate up to a minute's worth, and starts full.

    Args:
        per_minute: rate and capacity, above 0.
        now: seconds.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self._capacity = self._level = float(per_minute)
        self._at = now

    @property
    def capacity(self) -> float:
        return self._capacity

    def level(self, now: float) -> float:
        """What is in it; below 0 when more was taken than was there."""
        self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._capacity / _MINUTE)
        self._at = max(self._at, now)
        return self._level

    def resize(self, per_minute: int, now: float) -> None:
        """Takes over a changed limit; what was used stays used."""
        used = self._capacity - self.level(now)
        self._capacity = float(per_minute)
        self._level = self._capacity - used

    def seconds_until(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there, 0 when it is. More than fits into the bucket needs a full one, not for ever."""
        missing = min(amount, self._capacity) - self.level(now)
        return missing * _MINUTE / self._capacity if missing > _ROUNDING else 0.0

    def take(self, amount: float, now: float) -> None:
        """Takes without asking, also below 0; a negative amount gives back what turned out not to be used."""
        self._level = min(self._capacity, self.level(now) - amount)


class TenantRates:
    """The two buckets of a tenant.

    Tokens are charged as they are served rather than reserved: the prompt's at the door, the answer's as they come, below
    0 if need be. So nobody is refused for an answer that stays short, the rate holds in the long run, and what it is
    exceeded by is what was running when the bucket became empty.

    Args:
        tenant: for messages.
        policy: its limits.
        now: seconds.
    """

    def __init__(self, tenant: str, policy: TenantPolicy, now: float) -> None:
        self._tenant = tenant
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self.update(policy, now)

    def update(self, policy: TenantPolicy, now: float) -> None:
        """Takes over limits that may have changed."""
        self._requests = _sized(self._requests, policy.requests_per_minute, now)
        self._tokens = _sized(self._tokens, policy.tokens_per_minute, now)

    def enter(self, tokens: int, now: float) -> None:
        """Counts one request and its prompt.

        Raises:
            RateLimited: there is no room; nothing was counted, and the error says when there will be.
        """
        self.ask(now)
        if self._tokens and (wait := self._tokens.seconds_until(max(1, tokens), now)):
            raise self._refused("tokens", self._tokens, wait)
        if self._requests:
            self._requests.take(1, now)
        self.charge(tokens, now)

    def ask(self, now: float) -> None:
        """Raises RateLimited when there is no room for a request; counts nothing."""
        if self._requests and (wait := self._requests.seconds_until(1, now)):
            raise self._refused("requests", self._requests, wait)

    def missed(self, now: float) -> None:
        """Counts a request that will never `enter`."""
        if self._requests:
            self._requests.take(1, now)

    def forgive(self, tokens: int, now: float) -> None:
        """Takes back what `enter` counted, for a request that the service itself turned away."""
        if self._requests:
            self._requests.take(-1, now)
        self.charge(-tokens, now)

    def charge(self, tokens: int, now: float) -> None:
        """Counts tokens that were served; a negative number takes an estimate back."""
        if self._tokens:
            self._tokens.take(tokens, now)

    def rested(self, now: float) -> bool:
        """Whether forgetting this object would change nothing."""
        return all(bucket.level(now) >= bucket.capacity for bucket in (self._requests, self._tokens) if bucket)

    def _refused(self, what: str, bucket: TokenBucket, wait: float) -> RateLimited:
        return RateLimited(
            f"{self._tenant or 'this caller'} is over its limit of {bucket.capacity:.0f} {what} a minute; send the "
            f"request again in {wait:.1f} s, or ask the operator for more (`graft tenant limits`)",
            wait,
        )


def _sized(bucket: TokenBucket | None, per_minute: int, now: float) -> TokenBucket | None:
    if not per_minute:
        return None
    if bucket is None:
        return TokenBucket(per_minute, now)
    if bucket.capacity != per_minute:
        bucket.resize(per_minute, now)
    return bucket
