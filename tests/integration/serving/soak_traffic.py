"""Zipf traffic on a soak world while aliases move, and what may be said of each answer afterwards."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from soak_world import PROMPTS, TOKENS, SoakWorld

from tests.integration.serving.serving_world import Service

Owner = tuple[str, str]
RELEASE_SECONDS = 2.0  # what is promised: a moved alias reaches every node within this


@dataclass(frozen=True)
class Outcome:
    """One call; `error` is the status of one that failed."""

    owner: Owner
    prompt: str
    began: float
    ended: float
    version: str = ""
    text: str = ""
    error: grpc.StatusCode | None = None


@dataclass
class Traffic:
    """Callers and a mover of aliases, each in a thread."""

    world: SoakWorld
    service: Service
    outcomes: list[Outcome] = field(default_factory=list)
    moves: dict[Owner, list[tuple[float, float, str]]] = field(default_factory=dict)
    """(before the call, after it, version), oldest first."""
    hold: threading.Event = field(default_factory=threading.Event)
    """While set, aliases rest."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _broken: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owners = sorted(self.world.choices, key=lambda owner: (owner[1], owner[0]))
        self._weights = [1 / (rank + 1) ** 1.1 for rank in range(len(self.owners))]
        for owner, versions in self.world.choices.items():
            self.moves[owner] = [(0.0, 0.0, versions[0])]

    def start(self, callers: int) -> None:
        jobs = [lambda number=number: self._call(random.Random(number)) for number in range(callers)]
        for job in [*jobs, lambda: self._move(random.Random(99))]:
            thread = threading.Thread(target=self._guard, args=(job,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a call never ended"
        if self._broken:
            raise self._broken[0]

    def _guard(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # raised by `stop`, where the test sees it
            self._broken.append(error)

    def _call(self, rng: random.Random) -> None:
        while not self._stop.is_set():
            (owner,) = rng.choices(self.owners, self._weights)
            prompt = rng.choice(PROMPTS)
            began = time.monotonic()
            try:
                answer = self.service.generate(owner[0], owner[1], prompt, max_tokens=TOKENS)
                outcome = Outcome(owner, prompt, began, time.monotonic(), answer.started.version, answer.text)
            except grpc.RpcError as error:
                outcome = Outcome(owner, prompt, began, time.monotonic(), error=error.code())
            self.outcomes.append(outcome)

    def _move(self, rng: random.Random) -> None:
        movable = [owner for owner, versions in self.world.choices.items() if len(versions) > 1]
        while not self._stop.wait(0.5):
            if self.hold.is_set():
                continue
            owner = rng.choice(movable)
            version = rng.choice([v for v in self.world.choices[owner] if v != self.moves[owner][-1][2]])
            before = time.monotonic()
            self.world.store.aliases.set(*owner, "prod", version, by="tests", reason="soak")
            self.moves[owner].append((before, time.monotonic(), version))

    def allowed(self, outcome: Outcome, known_since: float) -> set[str]:
        """Versions that the answer may be of: the alias stood there at some moment from the promise before `known_since` to the
        call's end."""
        log = self.moves[outcome.owner]
        found = set()
        for number, (before, _, version) in enumerate(log):
            left = log[number + 1][1] if number + 1 < len(log) else float("inf")
            if before <= outcome.ended and left >= known_since - RELEASE_SECONDS:
                found.add(version)
        return found

    def known_since(self, outcome: Outcome, cut: float, mended: float) -> float:
        """When the node may last have asked for the alias: at the call, unless the store was away; then at the last answer
        before that, for what is known goes on being served."""
        if outcome.ended < cut or outcome.began > mended + RELEASE_SECONDS:
            return outcome.began
        asked = [one.began for one in self.outcomes if one.owner == outcome.owner and not one.error and one.began < cut]
        return min(max(asked, default=cut), outcome.began)
