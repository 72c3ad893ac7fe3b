"""What the racing processes of the contract suite run; a module of its own, so that spawned processes can import it."""

import multiprocessing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from adapter_store import Provenance, open_store, read_base
from adapter_store.backends.open import open_backend
from adapter_store.errors import VersionConflict


def race(target: object, url: str, racers: int, *rest: object) -> list[object]:
    """Runs `target(number, url, barrier, answers, *rest)` in processes of their own; returns their answers by number."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(racers), context.Queue()
    processes = [
        context.Process(target=target, args=(number, url, barrier, answers, *rest))  # type: ignore[arg-type]
        for number in range(racers)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return [found[number] for number in range(racers)]


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
