"""What the racing processes of the contract suite run; a module of its own, so that spawned processes can import it."""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from adapter_store import Provenance, open_store, read_base
from adapter_store.backends.open import open_backend
from adapter_store.errors import VersionConflict
from tests.store_samples import make_adapter

RACERS = 8
"""Processes of a race."""


@dataclass(frozen=True)
class Promotions:
    """What one racer did, by rounds."""

    won: list[bool]
    """Whether it moved the alias on from the number that all racers had seen."""
    free: list[int]
    """The number that its move got which expected none."""
    versions: list[str]
    """All that it published."""


def race(target: object, url: str, *rest: object) -> list[Any]:
    """Runs `target(number, url, barrier, answers, *rest)` in RACERS processes of their own; returns their answers by number."""
    # Forks of a process that has imported this module and done nothing else: eight interpreters would take longer to start
    # than the race takes, and start one after the other.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier, answers = context.Barrier(RACERS), context.Queue()
    processes = [
        context.Process(target=_run, args=(dict(os.environ), target, number, url, barrier, answers, *rest))
        for number in range(RACERS)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    return [found[number] for number in range(RACERS)]


def _run(environment: dict[str, str], target: Callable[..., None], *arguments: object) -> None:
    os.environ.update(environment)  # a fork has that of the first race's time: without this test's keys
    target(*arguments)


def create_keys(number: int, url: str, barrier: Barrier, answers: "Queue[object]", rounds: int) -> None:
    """Races for one key per round; answers the rounds won."""
    backend, won = open_backend(url), []
    for turn in range(rounds):
        barrier.wait(60)
        if backend.create(f"v1/race/{turn}", str(number).encode()):
            won.append(turn)
    answers.put((number, won))


def move_alias(number: int, url: str, barrier: Barrier, answers: "Queue[object]", version: str, expected: int) -> None:
    """Races for one record of an alias; answers 'won' or the current number that the conflict carried."""
    store = open_store(url)
    barrier.wait(60)
    try:
        store.aliases.set("acme", "greeter", "prod", version, expected=expected, by=f"racer {number}", reason="race")
        answers.put((number, "won"))
    except VersionConflict as conflict:
        answers.put((number, conflict.current))


def publish(number: int, url: str, barrier: Barrier, answers: "Queue[object]", adapter: str, base: str) -> None:
    """Publishes the same content as everybody else; answers the manifest."""
    store, info = open_store(url), read_base(base)
    barrier.wait(60)
    made = Provenance(made_by=f"racer {number}")
    answers.put((number, store.versions.publish("acme", "greeter", Path(adapter), base=info, made=made)))


def publish_and_promote(
    number: int, url: str, barrier: Barrier, answers: "Queue[object]", rounds: int, folders: str, base: str
) -> None:
    """Publishes versions of one adapter and points one alias at them, against everybody else; answers `Promotions`.

    In each round twice: once expecting the number that all have seen, so that one racer wins, and once whatever it is, so that
    everybody gets a record.
    """
    store, info, done = open_store(url), read_base(base), Promotions([], [], [])
    at, made = ("acme", "greeter", "prod"), Provenance(made_by=f"racer {number}")
    for turn in range(rounds):
        for step in range(2):
            folder = make_adapter(Path(folders) / f"{number}-{turn}-{step}", seed=(number * rounds + turn) * 2 + step)
            done.versions.append(store.versions.publish(*at[:2], folder, base=info, made=made).version)
        about: dict[str, Any] = {"by": f"racer {number}", "reason": f"round {turn}"}
        seen = max((record.number for record in store.aliases.list(*at[:2])), default=0)
        barrier.wait(60)
        try:
            moved = store.aliases.set(*at, done.versions[-2], expected=seen, **about)
            assert moved.number == seen + 1
            done.won.append(True)
        except VersionConflict as conflict:
            if conflict.current <= seen:
                raise AssertionError(
                    f"the loser is told number {conflict.current}, which is none of a winner"
                ) from conflict
            done.won.append(False)
        barrier.wait(60)
        done.free.append(store.aliases.set(*at, done.versions[-1], **about).number)
        barrier.wait(60)
    answers.put((number, done))
