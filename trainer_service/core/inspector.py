"""Looking through a data set in a process of its own.

A million rows take the interpreter a quarter of a minute, in which this process would answer nobody; and what a hostile
file can make of a parser (memory, a crash) ends with the process that meets it. Owns that process's life.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator

import structlog

from trainer_service.core.errors import InspectionFailed
from trainer_service.core.inspection import Inspection, InspectionRequest, Output, Progress

MODULE = "trainer_service.engine.inspection"
_MAX_LINE = 8 << 20
_AT_ONCE = 2

log = structlog.get_logger(__name__)


class Inspector:
    """Inspects a few data sets at a time; others wait."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def inspect(self, request: InspectionRequest) -> Inspection:
        """Returns what was found.

        Raises:
            InspectionFailed: the process ended without an answer.
        """
        async with contextlib.aclosing(self.follow(request)) as steps:
            async for step in steps:
                if isinstance(step, Inspection):
                    return step
        raise AssertionError("unreachable: `follow` ends with an Inspection or raises")

    async def follow(self, request: InspectionRequest) -> AsyncGenerator[Progress | Inspection]:
        """Yields progress and at last what was found; closing the iterator ends the process.

        Raises:
            InspectionFailed: the process ended without an answer.
        """
        async with self._turns:
            for last in (False, True):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", MODULE),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # What a parser prints may hold rows, so it goes nowhere; the exit status tells what kind of end it was.
                    stderr=asyncio.subprocess.DEVNULL,
                    limit=_MAX_LINE,
                )
                try:
                    async for output in _outputs(process, request):
                        if output.progress:
                            yield output.progress
                        if output.report:
                            yield output.report
                            return
                    status = await process.wait()
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
                log.error("inspection_failed", status=status)
                # Once more where it was killed from outside, as a machine that takes its memory back does: the file need not be why.
                if last or status != -signal.SIGKILL:
                    raise InspectionFailed(f"the data set could not be looked through: {_end(status)}")


async def _outputs(process: asyncio.subprocess.Process, request: InspectionRequest) -> AsyncIterator[Output]:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: the end of its output says so
        process.stdin.write(request.model_dump_json().encode())
        await process.stdin.drain()
        process.stdin.close()
    while line := await process.stdout.readline():
        yield Output.model_validate_json(line)


def _end(status: int) -> str:
    if status == OUT_OF_MEMORY:
        return "it needs more memory than one file may take; send JSON lines, or smaller row groups"
    return f"the process that read it ended {f'by signal {-status}' if status < 0 else f'with status {status}'}"


OUT_OF_MEMORY = 77
"""Exit status of an inspection that met its limit."""
