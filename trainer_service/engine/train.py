"""The training loop: steps, held-out evaluation, checkpoints, and going on after a crash.

Given the same backbone, rows, recipe and number of threads on a CPU, the weights come out the same, bit for bit, however
often the process is killed on the way: batches are a function of (seed, epoch), and a checkpoint holds the generators.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from trainer_service.core.events import Evaluated, StepDone
from trainer_service.core.recipe import Recipe
from trainer_service.core.states import JobState
from trainer_service.core.worker_messages import Message, Phase
from trainer_service.engine import optimizer as optimizers
from trainer_service.engine.backbone import Grafted
from trainer_service.engine.checkpoint import Checkpoint, CheckpointFolder, Progress, State
from trainer_service.engine.data import Example, epoch_steps
from trainer_service.engine.errors import Diverged
from trainer_service.engine.evaluate import mean_loss
from trainer_service.engine.loss import step_batches, summed

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Limits:
    """What the machine allows; none of it changes the result beyond rounding."""

    micro_batch_tokens: int
    checkpoint_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a finished training is worth."""

    progress: Progress
    best: State

    @property
    def beats_base(self) -> bool:
        """True when the best epoch's held-out loss is below the base's own."""
        assert self.progress.best_loss is not None
        assert self.progress.base_loss is not None
        return self.progress.best_loss < self.progress.base_loss


class Training:
    """One job's training, from step 0 or from its newest checkpoint."""

    def __init__(
        self,
        model: Grafted,
        train: list[Example],
        held_out: list[Example],
        *,
        recipe: Recipe,
        limits: Limits,
        checkpoints: CheckpointFolder,
        base_digest: str,
        send: Callable[[Message], None],
    ) -> None:
        """Takes a model fresh from `Grafted`; `send` gets every event as it happens."""
        self._model, self._train, self._held_out = model, train, held_out
        self._recipe, self._limits, self._checkpoints, self._send = recipe, limits, checkpoints, send
        self._lengths = [example.length for example in train]
        self._per_epoch = recipe.steps_per_epoch(len(train))
        self._total = recipe.total_steps(len(train))
        self._optimizer = optimizers.build(model.parameters, recipe)
        # fp16 alone needs it: bf16 and fp32 have the range.
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=model.needs_loss_scale)
        self._progress = Progress(base_digest)
        self._best: State | None = None

    def run(self) -> Outcome:
        """Trains to the end.

        Raises:
            Diverged: loss or gradient is not finite.
        """
        self._resume()
        self._model.model.train()
        if self._progress.base_loss is None:
            self._progress = replace(self._progress, base_loss=self._evaluate(is_base=True))
        self._send(Phase(state=JobState.RUNNING))
        epoch, steps = -1, list[list[int]]()
        saved_at = time.monotonic()
        while self._progress.step < self._total:
            at = self._progress.step
            if at // self._per_epoch != epoch:
                epoch = at // self._per_epoch
                steps = epoch_steps(
                    self._lengths, batch_rows=self._recipe.batch_rows, seed=self._recipe.seed, epoch=epoch
                )
            self._step(at, steps[at % self._per_epoch])
            self._progress = replace(self._progress, step=at + 1)
            if (at + 1) % self._per_epoch == 0 or at + 1 == self._total:
                self._finish_epoch()
            elif time.monotonic() - saved_at < self._limits.checkpoint_seconds:
                continue
            self._save()
            saved_at = time.monotonic()
        assert self._best is not None  # the last step always ends an epoch
        return Outcome(self._progress, self._best)

    def _step(self, at: int, rows: list[int]) -> None:
        started = time.monotonic()
        rate = optimizers.learning_rate(at, total=self._total, recipe=self._recipe)
        batches = step_batches(self._model, self._train, rows, self._limits.micro_batch_tokens)
        window = sum(len(batch.targets) for batch in batches)
        loss = 0.0
        for batch in batches:
            part = summed(self._model, batch) / window
            self._scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        self._scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self._model.parameters, MAX_GRADIENT_NORM))
        if not math.isfinite(loss) or not (math.isfinite(norm) or self._scaler.is_enabled()):
            raise Diverged(f"loss or gradient is not finite at step {at + 1}; lower learning_rate ({rate:g} here)")
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._send(
            StepDone(
                step=at + 1,
                total_steps=self._total,
                loss=loss,
                learning_rate=rate,
                gradient_norm=norm if math.isfinite(norm) else 0.0,
                tokens_per_second=sum(batch.tokens for batch in batches) / max(1e-9, time.monotonic() - started),
                epoch=(at + 1) / self._per_epoch,
            )
        )

    def _evaluate(self, *, is_base: bool) -> float:
        self._send(Phase(state=JobState.EVALUATING))
        loss = mean_loss(self._model, self._held_out, self._limits.micro_batch_tokens)
        if not math.isfinite(loss):
            raise Diverged(f"the held-out loss is not finite after step {self._progress.step}")
        self._send(Evaluated(step=self._progress.step, loss=loss, is_base=is_base))
        return loss

    def _finish_epoch(self) -> None:
        loss = self._evaluate(is_base=False)
        if self._progress.best_loss is None or loss < self._progress.best_loss:
            self._progress = replace(self._progress, best_loss=loss, best_step=self._progress.step)
            self._best = self._model.adapter_state()
        if self._progress.step < self._total:
            self._send(Phase(state=JobState.RUNNING))

    def _save(self) -> None:
        state = {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "cpu_rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state() if self._model.device.type == "cuda" else None,
        }
        self._checkpoints.save(Checkpoint(self._progress, self._model.adapter_state(), self._best, state))

    def _resume(self) -> None:
        found = self._checkpoints.newest(self._progress.base_digest)
        if found is None:
            return
        self._progress, self._best = found.progress, found.best
        self._model.load_adapter_state(found.adapter)
        self._optimizer.load_state_dict(found.state["optimizer"])
        self._scaler.load_state_dict(found.state["scaler"])
        torch.set_rng_state(found.state["cpu_rng"])
        if found.state["device_rng"] is not None:
            torch.cuda.set_rng_state(found.state["device_rng"])
