"""Runs the store's care (`python -m adapter_store.care`) as a process of its own and reads what it says.

Owns the process and its lines. Does not own what care does, which needs no service to be up, nor how it looks (`graftwork.cli`).
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.local.errors import CareFailed

_STOP_S = 10.0  # for what is under way when the user interrupts


@dataclass(frozen=True, slots=True)
class CareProgress:
    """How far a phase is."""

    phase: str
    done: int
    total: int | None
    """None: nobody knows."""
    unit: str
    """'objects' or 'bytes'."""


@dataclass(frozen=True, slots=True)
class CareFinding:
    """Something that an operator should know about an object of the store."""

    severity: str
    """'damaged', 'warning' or 'note'."""
    key: str
    what: str
    todo: str


def run_care(
    arguments: Sequence[str], on_progress: Callable[[CareProgress], None], on_finding: Callable[[CareFinding], None]
) -> dict[str, Any]:
    """Runs one command to its end.

    Args:
        arguments: of `python -m adapter_store.care`.
        on_progress: called while it works.
        on_finding: called with each finding.

    Returns:
        Its result; the command's own words say what is in it.

    Raises:
        CareFailed: it could not do its work; says why in one line.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "adapter_store.care", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        try:
            answer = _listen(process, on_progress, on_finding)
            status = process.wait()
        except BaseException:  # Ctrl-C reaches both of us; whatever else ends us must end it, too
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        if "result" in answer and status == 0:
            return dict(answer["result"])
        if status == -signal.SIGKILL:
            raise CareFailed("the store's care was killed (out of memory?); run it again, and it goes on")
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        raise CareFailed(answer.get("error", {}).get("reason") or (lines[-1] if lines else f"it ended with {status}"))


def _listen(
    process: "subprocess.Popen[str]",
    on_progress: Callable[[CareProgress], None],
    on_finding: Callable[[CareFinding], None],
) -> dict[str, Any]:
    """Reads lines to the end; returns the last one."""
    assert process.stdout is not None
    line: dict[str, Any] = {}
    for text in process.stdout:
        line = json.loads(text)
        if "progress" in line:
            on_progress(CareProgress(**line["progress"]))
        elif "finding" in line:
            on_finding(CareFinding(**line["finding"]))
    return line
