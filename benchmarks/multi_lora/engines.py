"""Engines in processes of their own (`engine`): starting them, and giving them loads."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.multi_lora.engine import Task

STOP_SECONDS = 60


class EngineProcess:
    """One engine; `started` makes it.

    Args:
        side: its name.
        process: that answers a line a line.
    """

    def __init__(self, side: str, process: "subprocess.Popen[str]") -> None:
        self.side, self._process = side, process

    @property
    def pid(self) -> int:
        """Of the process in front of vLLM's own."""
        return self._process.pid

    def seconds(self, prompts: list[list[int]], answer: int, adapters: int) -> float:
        """Sends a load, all requests at once; returns how long it took.

        Args:
            prompts: tokens of each request.
            answer: tokens that each is to bring.
            adapters: how many of them the requests use in turn; 0: the base.

        Raises:
            SystemExit: the engine died.
        """
        answered = self.ask({"prompts": prompts, "answer": answer, "adapters": adapters})
        if answered is None:
            raise SystemExit(f"the engine {self.side} died")
        return float(answered["seconds"])

    def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Sends a message; None: it has gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else None


@contextmanager
def started(task: Task, folder: Path) -> Iterator[EngineProcess]:
    """Starts an engine and waits for it; one after the other, since they look how much memory is free.

    Raises:
        SystemExit: it did not start; its log's end is in the message.
    """
    log = folder / f"{task.side}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.multi_lora.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    made = EngineProcess(task.side, process)
    try:
        if made.ask(asdict(task)) is None:
            raise SystemExit(f"the engine {task.side} did not start:\n{log.read_text(errors='replace')[-3000:]}")
        print(f"{task.side} is up", file=sys.stderr)
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(STOP_SECONDS)
