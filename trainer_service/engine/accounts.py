"""A job's accounts: what it is going to take, and beside it what it took.

Owns measuring one attempt's training from outside, and keeping the measured speed for the next estimates. Does not own the
prediction (`core.estimate`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from adapter_store.base import BaseInfo
from trainer_service.core.calibration import Calibrations
from trainer_service.core.cost_model import OVERHEAD_BYTES
from trainer_service.core.events import Estimated, Evaluated, Measured, StepDone
from trainer_service.core.inspection import Figures
from trainer_service.core.planning import Planner
from trainer_service.core.worker_messages import Message, WorkerSpec
from trainer_service.engine.data import Encoded
from trainer_service.engine.reporting import most_resident


class Accounts:
    """Of one attempt; `send` goes between the training and the supervisor."""

    def __init__(self, spec: WorkerSpec, base: BaseInfo, encoded: Encoded, send: Callable[[Message], None]) -> None:
        """Predicts from the encoded rows."""
        self._spec, self._base, self._forward = spec, base, send
        self._calibrations = Calibrations(spec.calibrations or spec.work_dir / "calibration")
        planner = Planner(base, spec.fleet, self._calibrations)
        self._predicted = planner.estimate(spec.recipe, figures(encoded, spec.recipe.max_length))
        self._first_step: int | None = None
        self._last_step = 0
        self._evaluations = 0

    def announce(self) -> None:
        """Sends the prediction."""
        if (predicted := self._predicted) is None:
            return
        self._forward(
            Estimated(
                tokens=predicted.tokens,
                steps=predicted.steps,
                trainable_parameters=predicted.trainable_parameters,
                adapter_bytes=predicted.adapter_bytes,
                peak_bytes=predicted.memory.peak,
                seconds=predicted.seconds,
                measured_speed=predicted.speed.measured,
            )
        )

    def send(self, message: Message) -> None:
        """Passes a message on and counts what it says."""
        if isinstance(message, StepDone):
            if self._first_step is None:
                self._first_step = message.step
            self._last_step = message.step
        elif isinstance(message, Evaluated):
            self._evaluations += 1
        self._forward(message)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measures the training that runs inside, sends what it took, and keeps the speed."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        if (predicted := self._predicted) is None or self._first_step is None:
            return
        steps = self._last_step - self._first_step + 1
        self._forward(
            Measured(
                steps=steps,
                seconds=seconds,
                predicted_seconds=predicted.seconds_of(steps, self._evaluations),
                peak_bytes=_peak_bytes(self._spec.device),
                predicted_peak_bytes=predicted.memory.peak,
                measured_speed=predicted.speed.measured,
            )
        )
        if self._spec.calibrations is None:
            return
        fleet = self._spec.fleet
        self._calibrations.record(
            predicted.flops_of(steps, self._evaluations),
            seconds,
            device=fleet.device,
            device_name=fleet.device_name,
            threads=fleet.threads,
            base=self._base.digest,
            bits=self._spec.recipe.bits,
        )


def figures(encoded: Encoded, max_length: int) -> Figures:
    """Returns how long encoded rows are; exact."""
    lengths = encoded.examples.lengths + 1
    return Figures(
        rows=len(lengths),
        sampled_rows=len(lengths),
        max_length=max_length,
        tokens=encoded.tokens,
        supervised_tokens=encoded.supervised,
        squared_tokens=int(np.square(lengths).sum()),
        longest=int(lengths.max(initial=0)),
        median=int(np.median(lengths)),
        percentile_95=int(np.percentile(lengths, 95)),
        cut_rows=encoded.truncated,
    )


def _peak_bytes(device: str) -> int:
    """Returns the most that this process held: of the GPU with CUDA's own share, or of the machine's memory."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved() + OVERHEAD_BYTES["cuda"]
    return most_resident()
