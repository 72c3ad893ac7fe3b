"""A Python module of the engine as a process of its own, with a pipe for what it reports.

The pipe is separate from stdout, so that a library's print cannot break a message; stdout and stderr go to a log. The
child's stdin stays open for as long as this process lives. Owns neither what is said nor what it means.
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import structlog

_PIECE = 1 << 16  # a pipe's own size: what one read may find

log = structlog.get_logger(__name__)


class Child:
    """A running process; see `start_child`."""

    def __init__(self, process: asyncio.subprocess.Process, reports: asyncio.StreamReader, pipe: asyncio.BaseTransport):
        """Takes over the process and the read end of its pipe."""
        self._process, self._reports, self._pipe = process, reports, pipe
        self._begun = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def lines(self) -> list[bytes]:
        """Returns the lines that are there, at least one; none at the end of the pipe. Safe to cancel."""
        while True:
            piece = await self._reports.read(_PIECE)
            # A line without its end is what a killed process was writing: it was never sent.
            *lines, self._begun = (self._begun + piece).split(b"\n")
            if lines or not piece:
                return lines

    async def tell(self, line: str) -> None:
        """Writes a line to its stdin; a process that is gone shows at the next `lines`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            log.info("child_gone_before_answer", pid=self.pid)

    def terminate(self) -> None:
        """SIGTERM; no effect when it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; no effect when it has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        # Not asyncio's own: that polls first, which takes the status of one that has just died away from whoever waits
        # for it, and `wait` would say 255.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def wait(self) -> int:
        """Waits for the end and closes the pipes; returns the status, minus the signal's number after a signal."""
        status = await self._process.wait()
        self._pipe.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status


async def start_child(module: str, spec: Path, log_file: Path, *, threads: int) -> Child:
    """Starts `python -m MODULE SPEC FD`, where FD is the write end of the pipe.

    Args:
        module: of the engine.
        spec: what it is told to do.
        log_file: gets stdout and stderr, at its end.
        threads: of its computations on a CPU.
    """
    read_end, write_end = os.pipe()
    try:
        with log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, str(spec), str(write_end)),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(write_end,),
                env=_environment(threads),
            )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        # Kept open here, the pipe would never end when the child dies.
        os.close(write_end)
    reports = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reports), os.fdopen(read_end, "rb", buffering=0)
    )
    return Child(process, reports, pipe)


def _environment(threads: int) -> dict[str, str]:
    """Returns the child's environment: ours, and how its threads behave.

    PASSIVE: OpenMP's threads otherwise spin at the end of every parallel region. Beside a busy neighbour (the serving
    engine on the same cores) that took a training from 2,100 to 350 tokens a second on two cores.
    """
    ours = {"TOKENIZERS_PARALLELISM": "true", "OMP_WAIT_POLICY": "PASSIVE"}
    return ours | dict(os.environ) | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads, whole or not at all: specs hold the store's URL."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)
