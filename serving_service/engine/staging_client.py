"""The service's end of `vllm_plugin.staging`: asks every worker of the engine to stage an adapter, beside its loop.

Owns the connections. Does not own which adapters are staged, nor slots.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving_service.engine.protocol import AdapterRefused, EngineUnavailable, LoraRef


@dataclass
class _Line:
    """A connection to one worker, and the answers that are awaited on it."""

    writer: asyncio.StreamWriter
    waiting: dict[int, "asyncio.Future[int]"] = field(default_factory=dict)
    cores: int = 0
    """That the worker was last told to leave."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has."""
    reader: "asyncio.Task[None] | None" = None


class StagingClient:
    """Talks to the stagers of all workers; `connect` makes one."""

    def __init__(self, lines: Sequence[_Line]) -> None:
        self._lines = lines

    @classmethod
    async def connect(cls, paths: Sequence[str]) -> "StagingClient":
        """Connects to the sockets that `graft_open_staging` has returned."""
        lines = []
        for path in paths:
            reader, writer = await asyncio.open_unix_connection(path)
            line = _Line(writer)
            line.reader = asyncio.create_task(_listen(line, reader), name="staging")
            lines.append(line)
        return cls(lines)

    async def stage(self, lora_id: int, lora: LoraRef) -> int:
        """Stages an adapter in every worker.

        Returns:
            Bytes of host memory that it takes, over all workers.

        Raises:
            AdapterRefused: a worker would not take it; nothing stays staged. EngineUnavailable: a worker is gone.
        """
        question = {"id": lora_id, "name": lora.name, "path": str(lora.path)}
        answers = [self._ask(line, lora_id, question) for line in self._lines]
        sizes = await asyncio.gather(*answers, return_exceptions=True)
        for size in sizes:
            if isinstance(size, BaseException):
                self.drop(lora_id)
                raise size
        return sum(size for size in sizes if isinstance(size, int))

    async def fill(self, lora_id: int) -> bool:
        """Has every worker fill the slot that its loop has given to an adapter.

        Returns:
            Whether one had anything to write: the slot may have been filled, or gone to another adapter.

        Raises:
            EngineUnavailable: a worker could not, or is gone.
        """
        question: dict[str, object] = {"id": lora_id, "fill": True}
        try:
            return any(await asyncio.gather(*(self._ask(line, lora_id, question) for line in self._lines)))
        except AdapterRefused as error:
            raise EngineUnavailable(f"the engine could not bring an adapter into a slot: {error}") from error

    def drop(self, lora_id: int) -> None:
        """Forgets a staged adapter that will not be taken."""
        for line in self._lines:
            if not line.writer.is_closing():
                line.writer.write(json.dumps({"id": lora_id, "drop": True}).encode() + b"\n")

    def leave_cores(self, cores: int) -> None:
        """Has every worker compute with so many cores fewer than it may, from its next step on."""
        for line in self._lines:
            line.cores = cores
            line.left.clear()
            if not line.writer.is_closing():
                line.writer.write(json.dumps({"leave_cores": cores}).encode() + b"\n")

    async def left(self, seconds: float) -> None:
        """Waits until every worker does as it was told; for so long at most, as it is a matter of speed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for line in self._lines:
                    await line.left.wait()

    async def close(self) -> None:
        """Ends the connections."""
        for line in self._lines:
            line.writer.close()
            if line.reader is not None:
                line.reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await line.reader

    def _ask(self, line: _Line, lora_id: int, question: dict[str, object]) -> "asyncio.Future[int]":
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if line.reader is None or line.reader.done() or line.writer.is_closing():
            answer.set_exception(_gone())
            return answer
        line.waiting[lora_id] = answer
        line.writer.write(json.dumps(question).encode() + b"\n")
        return answer


async def _listen(line: _Line, reader: asyncio.StreamReader) -> None:
    try:
        while text := await reader.readline():
            reply = json.loads(text)
            if "left" in reply:
                if reply["left"] == line.cores:
                    line.left.set()
                continue
            answer = line.waiting.pop(reply["id"], None)
            if answer is None or answer.done():  # of a drop, or whoever asked has given up
                continue
            if "error" in reply:
                answer.set_exception(AdapterRefused(reply["error"]))
            else:
                answer.set_result(reply["bytes"])
    except ConnectionError:
        pass  # as its end: the worker is gone
    finally:
        for answer in line.waiting.values():
            if not answer.done():
                answer.set_exception(_gone())
        line.waiting.clear()


def _gone() -> EngineUnavailable:
    return EngineUnavailable("the engine's worker has ended; try again in a few seconds")
