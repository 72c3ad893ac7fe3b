"""How much the services hold: memory, file handles, threads, by process."""

from dataclasses import dataclass

import psutil

from tests.chaos.system import System

MEMORY_GROWTH = 0.25
MEMORY_SLACK_BYTES = 64 << 20
"""Allocators keep some of what a burst took; a leak grows with the length of the run."""
HANDLE_SLACK = 16
"""Connections of a pool, and those of the callers that measure."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one process holds."""

    name: str
    memory_bytes: int
    handles: int
    threads: int


Census = dict[int, Held]
"""By pid."""


def census(system: System) -> Census:
    """Counts the two services and vllm's engine; what trains, ends by itself."""
    found: Census = {}
    processes = {f"{name} service": system.service(name) for name in ("trainer", "serving")}
    processes |= {f"engine {number}": process for number, process in enumerate(system.engines())}
    for name, process in processes.items():
        if process is None:
            continue
        try:
            held = Held(name, process.memory_info().rss, process.num_fds(), process.num_threads())
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = held
    return found


def replaced(before: Census, after: Census) -> list[str]:
    """Names the processes that are not those from before."""
    return [held.name for pid, held in before.items() if pid not in after]


def memory_leaks(before: Census, after: Census) -> list[str]:
    """Says who grew by more than its share."""
    return [
        f"{held.name}: {held.memory_bytes >> 20} MiB, then {after[pid].memory_bytes >> 20} MiB"
        for pid, held in before.items()
        if pid in after and after[pid].memory_bytes > held.memory_bytes * (1 + MEMORY_GROWTH) + MEMORY_SLACK_BYTES
    ]


def handle_leaks(before: Census, after: Census) -> list[str]:
    """Says who holds more files or threads than the slack allows."""
    return [
        f"{held.name}: {held.handles} handles and {held.threads} threads, then {after[pid].handles} and {after[pid].threads}"
        for pid, held in before.items()
        if pid in after and max(after[pid].handles - held.handles, after[pid].threads - held.threads) > HANDLE_SLACK
    ]
