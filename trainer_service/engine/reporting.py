"""What the training says on its way to the supervisor: memory beside each step, and checkpoints that no step is lost
behind.

Wraps what the training loop is given, so that the loop itself knows neither pipe nor process.
"""

from pathlib import Path
from typing import Protocol

import torch

from trainer_service.core.events import CheckpointSaved, Notice, NoticeLevel, StepDone
from trainer_service.core.worker_messages import Message
from trainer_service.engine.checkpoint import Checkpoint, CheckpointFolder


class Supervisor(Protocol):
    """The other end of the pipe, as the job sees it."""

    def send(self, message: Message) -> None:
        """Delivers a message, in order."""
        ...

    def settle(self) -> None:
        """Returns once everything sent so far is in the job's history."""
        ...

    def ask_to_publish(self) -> None:
        """Returns once the job is PUBLISHING and can no longer be cancelled."""
        ...


class Reporter:
    """Sends messages, with the memory that is held put beside each step."""

    def __init__(self, supervisor: Supervisor, device: torch.device) -> None:
        self._supervisor, self._device = supervisor, device

    def send(self, message: Message) -> None:
        """Delivers a message, in order."""
        if isinstance(message, StepDone):
            message = message.model_copy(update={"device_memory_bytes": memory_held(self._device)})
        self._supervisor.send(message)


class AnnouncedCheckpoints(CheckpointFolder):
    """Checkpoints that are part of the job's history: what led to one is recorded before it is written."""

    def __init__(self, work_dir: Path, supervisor: Supervisor, *, attempt: int) -> None:
        super().__init__(work_dir)
        self._supervisor, self._attempt = supervisor, attempt

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint."""
        # A step behind a checkpoint is never done again: unrecorded by now, it would be missing for ever.
        self._supervisor.settle()
        super().save(checkpoint)
        self._supervisor.send(CheckpointSaved(step=checkpoint.progress.step))

    def newest(self, base_digest: str) -> Checkpoint | None:
        """Loads the newest whole checkpoint, or None."""
        found = super().newest(base_digest)
        if self._attempt > 1:
            at = f"goes on from step {found.progress.step}" if found else "begins anew: there is no checkpoint here"
            self._supervisor.send(Notice(level=NoticeLevel.INFO, message=f"attempt {self._attempt} {at}"))
        return found


def memory_held(device: torch.device) -> int:
    """Returns the most bytes that the training has held: of the GPU's memory, on a CPU of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return most_resident()


def most_resident() -> int:
    """Returns the most bytes of the machine's memory that this process has held.

    Not getrusage's ru_maxrss: that of a fresh process begins with what the service that started it had.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
