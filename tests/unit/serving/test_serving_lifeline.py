"""Engines that start at once, each in a thread of its own: each knows its own processes, and all of them are tied to us."""

import multiprocessing
import multiprocessing.spawn
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.popen_spawn_posix import Popen

import pytest

from serving_service.engine.lifeline import Spawned, children_die_with_us


def test_each_thread_notes_its_own_children_and_nothing_stays_patched() -> None:
    plain = (multiprocessing.spawn.get_command_line, Popen._launch)  # type: ignore[attr-defined]
    inside = threading.Barrier(2)
    context = multiprocessing.get_context("spawn")

    def start() -> tuple[set[int], int | None, bool]:
        spawned = Spawned()
        with children_die_with_us(spawned):
            inside.wait(60)
            process = context.Process(target=int)
            process.start()
            tied = "prctl(1, 9)" in multiprocessing.spawn.get_command_line(pipe_handle=3)[-2]
            inside.wait(60)  # the other has spawned too
        process.join(60)
        return spawned.ids, process.pid, tied

    with ThreadPoolExecutor(2) as threads:
        seen = [future.result() for future in [threads.submit(start) for _ in range(2)]]
    for spawned, pid, tied in seen:
        assert spawned == {pid}
        assert tied
    assert seen[0][0] != seen[1][0]
    assert (multiprocessing.spawn.get_command_line, Popen._launch) == plain  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", [True, False])
def test_whoever_is_stopped_while_starting_leaves_no_child(before: bool) -> None:
    spawned = Spawned()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=signal.pause)  # of another engine
    other.start()
    if before:
        spawned.end()
    with children_die_with_us(spawned):
        process = context.Process(target=signal.pause)
        process.start()
    spawned.end()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert other.exitcode != -signal.SIGKILL
    other.kill()
    other.join(60)
