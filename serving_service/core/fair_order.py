"""Whose turn it is: each tenant's weighted virtual counter of what it was served.

After Sheng et al. 2024, 'Fairness in Serving Large Language Models' (VTC). A tenant's counter grows by
(prompt tokens + 2 x answer tokens) / weight as they are served, and the tenant with the smallest one is next. Tokens and
not requests, because that is what a request costs; as they are served and not as they are announced, because nobody knows
an answer's length.

Owns counters only. Who waits and what else they need is `admission_queue`'s. Pure.
"""

from collections.abc import Collection

INPUT_COST = 1.0
OUTPUT_COST = 2.0
"""An answer's token takes a step of the engine, a prompt's shares one with many others: the paper's weights."""


class FairOrder:
    """Counters of all tenants.

    A tenant is active while it has a request that could run if the service had room. One that was not (it sent nothing, or
    its own limit of concurrency held it back) is lifted to the smallest counter of those that were: without that it would
    have saved up credit, and could keep the others out until it is used up.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._active: set[str] = set()
        # The smallest counter of the active tenants, as of the last time there were any; it never falls. A tenant that finds
        # nobody waiting starts here, so what somebody used while nobody else wanted it is not held against them.
        self._floor = 0.0

    def counter(self, tenant: str) -> float:
        return self._counters.get(tenant, self._floor)

    def renew(self, active: Collection[str]) -> None:
        """Says who is active from now on; to be called whenever that may have changed."""
        staying = [self._counters[tenant] for tenant in active if tenant in self._active]
        floor = min(staying, default=self._floor)
        for tenant in active:
            if tenant not in self._active:
                self._counters[tenant] = max(self._counters.get(tenant, floor), floor)
        self._active = set(active)
        self._floor = max(self._floor, min((self._counters[tenant] for tenant in active), default=self._floor))

    def charge(self, tenant: str, weight: int, *, input_tokens: int = 0, output_tokens: int = 0) -> float:
        """Counts what a tenant was served, and returns by how much; negative numbers correct an estimate."""
        cost = (INPUT_COST * input_tokens + OUTPUT_COST * output_tokens) / weight
        self._counters[tenant] = self.counter(tenant) + cost
        return cost

    def forget(self, tenant: str) -> None:
        """Drops the counter of a tenant that is not active. When it comes back it starts at the floor, and what it is forgiven
        is at most what it had running when it last left."""
        self._counters.pop(tenant, None)
