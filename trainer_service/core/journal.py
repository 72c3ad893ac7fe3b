"""From what a worker says to what goes into the job's history: each step, evaluation, checkpoint and publication
once.

A worker that was killed does again what came after its newest checkpoint, and says it again; that is dropped here.
Before a worker writes a checkpoint it waits until everything it said is in the history (`worker_messages.Settle`), so
that no step can lie behind a checkpoint unreported. A long job's steps share events, so that a history stays readable
and its size bounded: at most MAX_STEP_EVENTS of them, and one for each checkpoint.

Pure: owns neither the numbers (`jobs`) nor the pipe. One object an attempt.
"""

import math
from collections.abc import Iterator

from trainer_service.core.events import (
    CheckpointSaved,
    Estimated,
    Evaluated,
    Measured,
    Notice,
    Probed,
    Published,
    StepDone,
)
from trainer_service.core.job_record import Job

MAX_STEP_EVENTS = 5_000
"""Of one job; one with more steps reports the means of several."""

Said = StepDone | Evaluated | CheckpointSaved | Notice | Published | Probed | Estimated | Measured


class Journal:
    """What one attempt adds to its job's history."""

    def __init__(self, job: Job) -> None:
        """Begins where the history of `job` is."""
        self._step, self._evaluated, self._checkpoint = job.step, job.evaluated_step, job.checkpoint_step
        self._published = (job.version, job.alias_number)
        self._steps: list[StepDone] = []

    def take(self, said: Said) -> Iterator[Said]:
        """Yields what is to be recorded now; steps may be kept back until `settle`."""
        if isinstance(said, StepDone):
            if said.step > self._step:
                self._step = said.step
                self._steps.append(said)
                if said.step % math.ceil(said.total_steps / MAX_STEP_EVENTS) == 0 or said.step == said.total_steps:
                    yield from self.settle()
            return
        if self._is_known(said):
            return
        yield from self.settle()  # what came before it has the lower number
        yield said

    def settle(self) -> Iterator[StepDone]:
        """Yields what was kept back."""
        if self._steps:
            steps, self._steps = self._steps, []
            yield _merged(steps)

    def _is_known(self, said: Said) -> bool:
        match said:
            case Evaluated():
                known, self._evaluated = said.step <= self._evaluated, max(said.step, self._evaluated)
                return known
            case CheckpointSaved():
                known, self._checkpoint = said.step <= self._checkpoint, max(said.step, self._checkpoint)
                return known
            case Published():
                now, before = (said.version, said.alias_number), self._published
                self._published = now
                return now == before
        return False


def _merged(steps: list[StepDone]) -> StepDone:
    """Returns one event for several steps: means of the figures, the last one's place and rate."""
    if len(steps) == 1:
        return steps[0]
    count = len(steps)
    return steps[-1].model_copy(
        update={
            "loss": sum(step.loss for step in steps) / count,
            "gradient_norm": sum(step.gradient_norm for step in steps) / count,
            # Of speeds over about the same number of tokens the harmonic mean is tokens over time.
            "tokens_per_second": count / sum(1 / max(step.tokens_per_second, 1e-9) for step in steps),
            "device_memory_bytes": max(step.device_memory_bytes for step in steps),
            "steps": count,
        }
    )
