"""A child process's end: what is told about it is how it ended."""

import asyncio
import contextlib
import os
import signal

from trainer_service.core.child import Child


async def _sleeper() -> Child:
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec("sleep", "60", pass_fds=(write_end,))
    os.close(write_end)
    reports = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reports), os.fdopen(read_end, "rb", buffering=0)
    )
    return Child(process, reports, pipe)


def test_a_kill_that_comes_just_after_the_end_does_not_change_how_it_ended() -> None:
    async def end() -> int:
        child = await _sleeper()
        os.kill(child.pid, signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):  # its status is taken already: too late for the race
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222, dead at once: the race's window
        child.kill()
        return await child.wait()

    async def ends() -> set[int]:
        return {await end() for _ in range(50)}

    # One core widens the window: whoever waits for the child cannot run while this thread does.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert asyncio.run(ends()) == {-signal.SIGTERM}
    finally:
        os.sched_setaffinity(0, cores)
