"""Whether this node should get traffic, and if not, why: the model, the store, or a stop under way.

Owns the three states and since when each holds. Does not own how they are told (gRPC health, /readyz, metrics), nor the
engine and the store themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from adapter_store.outage import StoreState


class ModelState(StrEnum):
    """The engine's life."""

    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"
    """It ended by itself; the process is about to end with exit code 1."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Part:
    """One state: its name, since when (UTC), and a cause where there is one."""

    state: str
    since: datetime
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a load balancer acts on, and what a person wants to know with it.

    Attributes:
        ready: send traffic here. A store that is away changes nothing about that: what is cached goes on being served.
        model: a ModelState.
        store: 'reachable' or 'away'.
        draining: 'yes' or 'no'.
    """

    ready: bool
    model: Part
    store: Part
    draining: Part


class ReadinessBook:
    """Keeps the states; asked often, tells from memory.

    Args:
        healthy: whether the engine can answer now.
        store: what is known of the store.
    """

    def __init__(self, healthy: Callable[[], bool], store: Callable[[], StoreState]) -> None:
        self._healthy, self._store = healthy, store
        now = datetime.now(UTC)
        self._model, self._draining = Part(ModelState.LOADING, now), Part("no", now)

    def loaded(self) -> None:
        """The engine has started and answered its first request."""
        self._model = Part(ModelState.READY, datetime.now(UTC))

    def died(self) -> None:
        """The engine's process ended by itself, which it may not have noticed yet."""
        self._model = Part(ModelState.DEAD, datetime.now(UTC))

    def drain(self) -> None:
        """The service takes nothing new."""
        if self._draining.state == "no":
            self._draining = Part("yes", datetime.now(UTC))

    def resume(self) -> None:
        """It takes requests again."""
        if self._draining.state == "yes":
            self._draining = Part("no", datetime.now(UTC))

    def stopped(self) -> None:
        """The engine is being stopped, or never came up; one that had died stays dead."""
        if self.current().model.state in (ModelState.LOADING, ModelState.READY):
            self._model = Part(ModelState.STOPPED, datetime.now(UTC))

    def current(self) -> Readiness:
        """Returns the states as they are now."""
        if self._model.state == ModelState.READY and not self._healthy():
            self._model = Part(ModelState.DEAD, datetime.now(UTC))
        known = self._store()
        store = Part("reachable" if known.reachable else "away", known.since, known.cause)
        ready = self._model.state == ModelState.READY and self._draining.state == "no"
        return Readiness(ready, self._model, store, self._draining)
